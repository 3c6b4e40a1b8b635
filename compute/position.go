package compute

import (
	"cmp"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Position is where an instance stands in the order of its account's: by creation, then reservation, then launch index. It
// never changes. The zero value is before all.
type Position struct {
	CreatedMs   int64
	Reservation ids.Reservation
	LaunchIndex int
}

// Position returns where the instance stands.
func (i *Instance) Position() Position {
	return Position{CreatedMs: i.CreateTime.UnixMilli(), Reservation: i.Reservation, LaunchIndex: i.LaunchIndex}
}

// Compare orders positions.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.CreatedMs, q.CreatedMs), cmp.Compare(p.Reservation, q.Reservation), cmp.Compare(p.LaunchIndex, q.LaunchIndex))
}

// String writes the position so that the order of texts is that of positions.
func (p Position) String() string {
	return fmt.Sprintf("%020d %s %05d", time.UnixMilli(p.CreatedMs).UnixNano(), p.Reservation, p.LaunchIndex)
}

// ParsePosition reads what String wrote; empty text is the zero value.
func ParsePosition(text string) (p Position, err error) {
	if text == "" {
		return p, nil
	}
	var nanos int64
	if _, err := fmt.Sscanf(text, "%d %s %d", &nanos, &p.Reservation, &p.LaunchIndex); err != nil {
		return p, fmt.Errorf("parse position %.80q: %w", text, err)
	}
	p.CreatedMs = time.Unix(0, nanos).UnixMilli()
	return p, nil
}
