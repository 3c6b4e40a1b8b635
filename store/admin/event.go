package admin

import (
	"github.com/nimbrel/nimbrel/store"
)

// Event is one line of a watch: a transaction, or a progress mark, which says that nothing up to Version is missing.
type Event struct {
	History  string        `json:"history,omitempty"`
	Version  store.Version `json:"version,omitempty"`
	Progress bool          `json:"progress,omitempty"`
	Changes  []Change      `json:"changes,omitempty"`
	Error    string        `json:"error,omitempty"` // ends the watch
}

// Change is one row's part.
type Change struct {
	Key     []byte `json:"key"`
	Deleted bool   `json:"deleted,omitempty"`
	Bytes   int    `json:"bytes,omitempty"` // length of the value
	// Value is there when values were asked for.
	Value *store.Value `json:"value,omitempty"`
}

func eventOf(b store.Batch, values bool) Event {
	e := Event{History: b.History.String(), Version: b.Version, Progress: b.Progress}
	for _, c := range b.Changes {
		change := Change{Key: c.Key, Deleted: c.Deleted}
		if !c.Deleted {
			if change.Bytes = len(c.Value.Bytes); c.Value.Kind == store.KindInt64 {
				change.Bytes = 8
			}
			if values {
				change.Value = &c.Value
			}
		}
		e.Changes = append(e.Changes, change)
	}
	return e
}
