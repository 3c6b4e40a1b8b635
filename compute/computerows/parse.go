package computerows

import (
	"fmt"

	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Change is one row's change as a view reads it. Exactly one pointer is set, or Resource, unless Deleted.
type Change struct {
	Table    string // "instance", "volume", "host", "left", "place" or "owned"
	ID       string // of the instance, volume or host; of the instance or volume for "place"
	Host     ids.Host
	Resource fit.Resource
	Deleted  bool

	Instance  *Instance
	Volume    *Volume
	HostRow   *Host
	Placement *Placement
	Left      int64
}

// Parse reads one change of a row under Prefix.
func Parse(c store.Change) (Change, error) {
	out, err := parseKey(c.Key)
	if err != nil || c.Deleted {
		out.Deleted = c.Deleted
		return out, err
	}
	switch out.Table {
	case "instance":
		out.Instance, err = decode[Instance](c.Value)
	case "volume":
		out.Volume, err = decode[Volume](c.Value)
	case "host":
		out.HostRow, err = decode[Host](c.Value)
	case "place":
		out.Placement, err = decode[Placement](c.Value)
	case "left":
		out.Left = c.Value.Int
	}
	if err != nil {
		return out, fmt.Errorf("decode row %q: %w", c.Key, err)
	}
	return out, nil
}

func decode[T any](v store.Value) (*T, error) {
	out, err := row.Decode[T](v.Bytes)
	return &out, err
}

func parseKey(key []byte) (Change, error) {
	parts, err := tuple.Decode(key)
	if err != nil {
		return Change{}, fmt.Errorf("decode key %q: %w", key, err)
	}
	text := make([]string, len(parts))
	for i, p := range parts {
		text[i], _ = p.(string)
	}
	switch {
	case len(text) == 4 && text[1] == "owned":
		return Change{Table: "owned", ID: text[3]}, nil
	case len(text) == 3 && (text[1] == "instance" || text[1] == "volume"):
		return Change{Table: text[1], ID: text[2]}, nil
	case len(text) == 3 && text[1] == "host":
		return Change{Table: "host", ID: text[2], Host: ids.Host(text[2])}, nil
	case len(text) == 4 && text[1] == "place":
		return Change{Table: "place", Host: ids.Host(text[2]), ID: text[3]}, nil
	case len(text) == 4 && text[1] == "left":
		return Change{Table: "left", ID: text[2], Host: ids.Host(text[2]), Resource: fit.Resource(text[3])}, nil
	}
	return Change{}, fmt.Errorf("key %q is of no table of compute", key)
}
