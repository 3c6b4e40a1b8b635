// Package op keeps operation records: what was asked, of what, how far it got, and how it ended.
//
// An operation is begun in the transaction that makes its first change and ends in the transaction that makes its last,
// so a record never tells of a change that did not happen. The part that owns the target drives it; nothing here runs.
//
// Invariants: ids are ordered by time of creation; an operation ends once; an ended one is removed after Keep.
//
// Deliberately absent: a queue. Work is found in the state of the target, not in its operations.
//
// Start at Begin and Finish.
package op

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

const (
	// Keep is how long an ended operation stays readable.
	Keep = 24 * time.Hour
	// MaxSteps bounds the steps of one operation; later ones replace the last.
	MaxSteps = 16
	// collectBatch bounds what one transaction of Collect removes, and scans.
	collectBatch = 256
)

// State is how an operation stands.
type State uint8

const (
	Running State = iota
	Succeeded
	Failed
	Superseded // another operation on the target took over
)

func (s State) String() string {
	return [...]string{"running", "succeeded", "failed", "superseded"}[s&3]
}

// Step is one thing that was done.
type Step struct {
	Name string `cbor:"1,keyasint"` // "placed", "running"
	AtMs int64  `cbor:"2,keyasint"`
}

// Operation is one record.
type Operation struct {
	ID      ids.Operation `cbor:"1,keyasint"`
	Kind    string        `cbor:"2,keyasint"` // "RunInstances"
	Account ids.Account   `cbor:"3,keyasint"`
	Target  string        `cbor:"4,keyasint"` // id of the resource
	State   State         `cbor:"5,keyasint,omitempty"`
	Steps   []Step        `cbor:"6,keyasint,omitempty"`
	Error   string        `cbor:"7,keyasint,omitempty"` // for people, when failed
	BeganMs int64         `cbor:"8,keyasint"`
	EndedMs int64         `cbor:"9,keyasint,omitempty"`
}

// NewID makes an id that sorts after those of earlier milliseconds: 12 hexadecimal digits of Unix milliseconds and 5
// random ones.
func NewID(now time.Time, random io.Reader) ids.Operation {
	var raw [9]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		raw[i] = byte(ms >> (40 - 8*i))
	}
	_, err := io.ReadFull(random, raw[6:])
	assert.That(err == nil, "operation id: random source failed: %v", err)
	return ids.Operation("op-" + hex.EncodeToString(raw[:])[:17])
}

func key(id ids.Operation) store.Template { return store.Key("op", id) }

// Prefix begins every operation's key, for views that follow operations.
func Prefix() []byte { return store.Prefix("op") }

// Begin records a new operation, with its first steps. It reads nothing.
func Begin(tx *store.Tx, o Operation) { tx.Put(key(o.ID), row.Encode(o)) }

// Advance adds a step to a running operation. An operation that has ended, or was collected, is left alone: its target
// went another way.
func Advance(ctx context.Context, tx *store.Tx, id ids.Operation, step string, now time.Time) error {
	return change(ctx, tx, id, func(o *Operation) { o.step(step, now) })
}

// Finish ends a running operation; detail says why it failed or what superseded it. before are steps that others timed
// and that are known only now. An ended operation is left alone.
func Finish(ctx context.Context, tx *store.Tx, id ids.Operation, s State, detail string, now time.Time, before ...Step) error {
	assert.That(s != Running, "operation %s finished as running", id)
	return change(ctx, tx, id, func(o *Operation) {
		for _, b := range before {
			o.step(b.Name, time.UnixMilli(b.AtMs))
		}
		o.State, o.Error, o.EndedMs = s, detail, now.UnixMilli()
		o.step(s.String(), now)
	})
}

func change(ctx context.Context, tx *store.Tx, id ids.Operation, edit func(*Operation)) error {
	o, found, err := Get(ctx, tx, id)
	if err != nil || !found || o.State != Running {
		return err
	}
	edit(&o)
	tx.Put(key(id), row.Encode(o))
	return nil
}

func (o *Operation) step(name string, now time.Time) {
	o.Steps = append(o.Steps[:min(len(o.Steps), MaxSteps-1)], Step{name, now.UnixMilli()})
}

// Get reads one operation.
func Get(ctx context.Context, r store.Reader, id ids.Operation) (Operation, bool, error) {
	value, found, err := r.Get(ctx, key(id).Base)
	if err != nil || !found {
		return Operation{}, false, err
	}
	o, err := Decode(value.Bytes)
	return o, err == nil, err
}

// Decode reads a stored operation.
func Decode(b []byte) (Operation, error) {
	o, err := row.Decode[Operation](b)
	if err != nil {
		return o, fmt.Errorf("decode operation: %w", err)
	}
	return o, nil
}

// Latest lists operations from the newest, at most limit, that keep wants (nil: all).
func Latest(ctx context.Context, r store.Reader, limit int, keep func(*Operation) bool) ([]Operation, error) {
	var out []Operation
	end := store.PrefixEnd(Prefix())
	for len(out) < limit {
		rows, err := r.Range(ctx, store.RangeOptions{Begin: Prefix(), End: end, Limit: collectBatch, Reverse: true})
		if err != nil || len(rows) == 0 {
			return out, err
		}
		for _, kv := range rows {
			o, err := Decode(kv.Value.Bytes)
			if err != nil {
				return out, err
			}
			if len(out) < limit && (keep == nil || keep(&o)) {
				out = append(out, o)
			}
		}
		end = rows[len(rows)-1].Key
	}
	return out, nil
}

// Collect removes operations that ended more than Keep ago, and returns how many.
func Collect(ctx context.Context, db *store.DB, now time.Time) (int, error) {
	removed, begin := 0, Prefix()
	oldest := now.Add(-Keep).UnixMilli()
	for {
		var rows []store.KV
		err := db.View(ctx, func(r store.Reader) (err error) {
			rows, err = r.Range(ctx, store.RangeOptions{Begin: begin, End: store.PrefixEnd(Prefix()), Limit: collectBatch})
			return err
		})
		if err != nil || len(rows) == 0 {
			return removed, err
		}
		n, young, err := removeEnded(ctx, db, rows, oldest)
		removed += n
		if err != nil || young {
			return removed, err
		}
		begin = append(append([]byte(nil), rows[len(rows)-1].Key...), 0)
	}
}

// removeEnded removes what ended before oldest. young says that the rows reach operations too new to have aged.
func removeEnded(ctx context.Context, db *store.DB, rows []store.KV, oldest int64) (n int, young bool, err error) {
	_, err = db.Transact(ctx, func(tx *store.Tx) error {
		n, young = 0, false
		for _, kv := range rows {
			o, err := Decode(kv.Value.Bytes)
			if err != nil {
				return err
			}
			young = young || o.BeganMs >= oldest
			if o.State != Running && o.EndedMs < oldest {
				tx.Delete(key(o.ID))
				n++
			}
		}
		return nil
	})
	return n, young, err
}
