package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
)

// readSet holds a transaction's snapshot, taken at its first read, and what it read there.
type readSet struct {
	snapshot Snapshot
	atLeast  Version
	ranges   []ReadRange
}

var _ Reader = (*Tx)(nil)

// Version returns the version of the snapshot that reads see, or 0 before the first read.
func (tx *Tx) Version() Version {
	if tx.reads.snapshot == nil {
		return 0
	}
	return tx.reads.snapshot.Version()
}

// history returns that of the snapshot.
func (tx *Tx) history() (h HistoryID) {
	if tx.reads.snapshot != nil {
		h = tx.reads.snapshot.History()
	}
	return h
}

// Get reads a row: what this transaction wrote, else the snapshot's. The commit conflicts when the row changed since.
func (tx *Tx) Get(ctx context.Context, key []byte) (Value, bool, error) {
	return tx.get(ctx, key, true)
}

// SnapshotGet is Get without the validation: the commit does not conflict when the row changed since.
func (tx *Tx) SnapshotGet(ctx context.Context, key []byte) (Value, bool, error) {
	return tx.get(ctx, key, false)
}

// Range reads rows in key order, this transaction's writes included. The commit conflicts when a row in the part of the
// range that was really scanned changed, appeared or vanished since.
func (tx *Tx) Range(ctx context.Context, o RangeOptions) ([]KV, error) { return tx.scan(ctx, o, true) }

// SnapshotRange is Range without the validation.
func (tx *Tx) SnapshotRange(ctx context.Context, o RangeOptions) ([]KV, error) {
	return tx.scan(ctx, o, false)
}

func (tx *Tx) get(ctx context.Context, key []byte, validated bool) (Value, bool, error) {
	whole := tx.db.absolute(key)
	if e := tx.effects.at(string(whole)); e.seq > 0 {
		if e.unresolved {
			return Value{}, false, tx.fail(fmt.Errorf("get %q: %w", key, ErrUnresolved))
		}
		return e.value, !e.deleted, nil
	}
	if err := tx.open(ctx); err != nil {
		return Value{}, false, err
	}
	v, _, found, err := tx.reads.snapshot.Get(ctx, whole)
	if err != nil {
		return Value{}, false, tx.fail(err)
	}
	if validated {
		tx.reads.ranges = append(tx.reads.ranges, ReadRange{Begin: whole})
	}
	return v, found, nil
}

func (tx *Tx) scan(ctx context.Context, o RangeOptions, validated bool) ([]KV, error) {
	o = tx.db.absoluteRange(o)
	if err := tx.effects.resolved(string(o.Begin), string(o.End)); err != nil {
		return nil, tx.fail(err)
	}
	if err := tx.open(ctx); err != nil {
		return nil, err
	}
	rows, err := tx.merge(ctx, o)
	if err != nil {
		return nil, tx.fail(err)
	}
	if validated {
		tx.reads.ranges = append(tx.reads.ranges, scanned(o, rows))
	}
	return tx.db.relativeRows(rows), nil
}

// merge reads the range from the snapshot and lays the transaction's own writes over it.
func (tx *Tx) merge(ctx context.Context, o RangeOptions) ([]KV, error) {
	own := tx.effects.written(string(o.Begin), string(o.End))
	if o.Reverse {
		slices.Reverse(own)
	}
	var out []KV
	for rest := o; ; {
		rows, err := tx.reads.snapshot.Range(ctx, rest)
		if err != nil {
			return nil, err
		}
		exhausted := len(rows) < rest.Limit
		for _, kv := range rows {
			own, out = mergeBefore(own, out, kv.Key, o.Reverse)
			if tx.effects.at(string(kv.Key)).seq == 0 {
				out = append(out, kv)
			}
		}
		if exhausted {
			out = append(out, own...)
		}
		if exhausted || len(out) >= o.Limit {
			return out[:min(len(out), o.Limit)], nil
		}
		rest = after(rest, rows[len(rows)-1].Key)
	}
}

// mergeBefore moves the rows of own that come up to key, in the walk's order, to out.
func mergeBefore(own, out []KV, key []byte, reverse bool) (left, merged []KV) {
	for len(own) > 0 {
		c := bytes.Compare(own[0].Key, key)
		if (!reverse && c > 0) || (reverse && c < 0) {
			break
		}
		own, out = own[1:], append(out, own[0])
	}
	return own, out
}

// after narrows a range to what follows key.
func after(o RangeOptions, key []byte) RangeOptions {
	if o.Reverse {
		o.End = key
	} else {
		o.Begin = append(slices.Clone(key), 0)
	}
	return o
}

// scanned is the part of the range whose rows decided the result.
func scanned(o RangeOptions, rows []KV) ReadRange {
	r := ReadRange{Begin: o.Begin, End: o.End}
	if len(rows) < o.Limit {
		return r
	}
	last := rows[len(rows)-1].Key
	if o.Reverse {
		r.Begin = last
	} else {
		r.End = append(slices.Clone(last), 0)
	}
	return r
}

// open takes the snapshot at the first read.
func (tx *Tx) open(ctx context.Context) error {
	if tx.reads.snapshot != nil {
		return nil
	}
	s, err := tx.db.engine.Snapshot(ctx, tx.reads.atLeast)
	if err != nil {
		return tx.fail(fmt.Errorf("open snapshot: %w", err))
	}
	tx.reads.snapshot = s
	return nil
}

func (tx *Tx) release() {
	if tx.reads.snapshot != nil {
		tx.reads.snapshot.Release()
	}
}
