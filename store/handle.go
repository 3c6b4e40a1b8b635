package store

import (
	"context"
	"slices"
)

// absolute puts the handle's prefix before a key.
func (db *DB) absolute(key []byte) []byte { return slices.Concat(db.prefix, key) }

// relative removes the handle's prefix from a whole key.
func (db *DB) relative(key []byte) []byte { return key[min(len(db.prefix), len(key)):] }

func (db *DB) absoluteRange(o RangeOptions) RangeOptions {
	o.Begin = db.absolute(o.Begin)
	if o.End == nil {
		o.End = PrefixEnd(db.prefix)
	} else {
		o.End = db.absolute(o.End)
	}
	if o.Limit <= 0 || o.Limit > MaxRangeRows {
		o.Limit = MaxRangeRows
	}
	return o
}

func (db *DB) relativeRows(rows []KV) []KV {
	for i := range rows {
		rows[i].Key = db.relative(rows[i].Key)
	}
	return rows
}

// view reads one snapshot through a handle.
type view struct {
	db       *DB
	snapshot Snapshot
}

func (v *view) Version() Version { return v.snapshot.Version() }

func (v *view) Get(ctx context.Context, key []byte) (Value, bool, error) {
	value, _, found, err := v.snapshot.Get(ctx, v.db.absolute(key))
	return value, found, err
}

func (v *view) Range(ctx context.Context, o RangeOptions) ([]KV, error) {
	rows, err := v.snapshot.Range(ctx, v.db.absoluteRange(o))
	return v.db.relativeRows(rows), err
}

// relativeFeed removes the handle's prefix from a feed's keys.
type relativeFeed struct {
	db *DB
	Feed
}

func (f *relativeFeed) Next(ctx context.Context) (Batch, error) {
	b, err := f.Feed.Next(ctx)
	b.Changes = slices.Clone(b.Changes) // the engine's own may be shared between feeds
	for i := range b.Changes {
		b.Changes[i].Key = f.db.relative(b.Changes[i].Key)
	}
	return b, err
}
