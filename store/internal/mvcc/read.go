package mvcc

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// Get returns a row as of a version.
func (s *State) Get(key []byte, at store.Version) (transactor.Row, error) {
	row, _, err := s.newest(key, at)
	return row, err
}

// newest returns a row's state as of a version, and the version that wrote it, deletions included; 0 for none.
func (s *State) newest(key []byte, at store.Version) (row transactor.Row, v store.Version, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{KeyTypes: pebble.IterKeyTypePointsOnly})
	if err != nil {
		return row, 0, fmt.Errorf("read row %q: %w", key, err)
	}
	defer it.Close()
	if !it.SeekPrefixGE(rowKey(key, at)) {
		return row, 0, it.Error()
	}
	if _, v, err = parseRowKey(it.Key()); err != nil {
		return row, 0, err
	}
	row, err = rowAt(it, v)
	return row, v, err
}

func rowAt(it *pebble.Iterator, v store.Version) (transactor.Row, error) {
	b, err := it.ValueAndErr()
	if err != nil {
		return transactor.Row{}, fmt.Errorf("read row %x: %w", it.Key(), err)
	}
	value, deleted, err := parseValue(b)
	if err != nil || deleted {
		return transactor.Row{}, err
	}
	return transactor.Row{Value: value, Version: v, Found: true}, nil
}

// Range returns at most o.Limit rows as of a version.
func (s *State) Range(ctx context.Context, o store.RangeOptions, at store.Version) ([]store.KV, error) {
	return s.rows(o, at, ctx.Err)
}

// rows walks a range until stop returns an error.
func (s *State) rows(o store.RangeOptions, at store.Version, stop func() error) ([]store.KV, error) {
	w, err := s.walk(o.Begin, o.End, at)
	if err != nil {
		return nil, err
	}
	defer w.it.Close()
	step, ok := w.forward, w.it.First
	if o.Reverse {
		step, ok = w.backward, w.it.Last
	}
	var rows []store.KV
	for more := ok(); more && len(rows) < o.Limit; {
		if err := stop(); err != nil {
			return nil, err
		}
		var kv store.KV
		var found bool
		if kv, found, more, err = step(); err != nil {
			return nil, err
		}
		if found {
			rows = append(rows, kv)
		}
	}
	return rows, w.it.Error()
}

// Keys lists the keys of rows as of a version.
func (s *State) Keys(begin, end []byte, limit int, at store.Version) ([][]byte, error) {
	rows, err := s.rows(store.RangeOptions{Begin: begin, End: end, Limit: limit}, at, func() error { return nil })
	keys := make([][]byte, len(rows))
	for i, kv := range rows {
		keys[i] = kv.Key
	}
	return keys, err
}

// Changed returns a key in [begin, end), or just begin when end is nil, that was written after a version.
func (s *State) Changed(begin, end []byte, after store.Version) ([]byte, store.Version, error) {
	const newest = ^store.Version(0)
	if end == nil {
		_, v, err := s.newest(begin, newest)
		if v <= after {
			return nil, 0, err
		}
		return begin, v, err
	}
	lower, upper := rowBounds(begin, end)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, 0, fmt.Errorf("validate range from %q: %w", begin, err)
	}
	defer it.Close()
	// The first key of each prefix is the row's newest version.
	for ok := it.First(); ok; ok = it.NextPrefix() {
		key, v, err := parseRowKey(it.Key())
		if err != nil {
			return nil, 0, err
		}
		if v > after {
			return cloneKey(key), v, nil
		}
	}
	return nil, 0, it.Error()
}

// walker moves over the rows of a range as of a version.
type walker struct {
	it *pebble.Iterator
	at store.Version
}

func (s *State) walk(begin, end []byte, at store.Version) (*walker, error) {
	lower, upper := rowBounds(begin, end)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("read range from %q: %w", begin, err)
	}
	return &walker{it: it, at: at}, nil
}

// forward looks at the row whose newest state the iterator is at, and moves to the next row.
func (w *walker) forward() (kv store.KV, found, more bool, err error) {
	key, v, err := parseRowKey(w.it.Key())
	if err != nil {
		return kv, false, false, err
	}
	if v > w.at {
		// A hot row may have many newer versions: seek over them. This may end at a later row, met on the next step.
		return kv, false, w.it.SeekGE(rowKey(key, w.at)), nil
	}
	if kv, found, err = w.rowAt(key, v); err != nil {
		return kv, false, false, err
	}
	return kv, found, w.it.NextPrefix(), nil
}

// backward looks at the row whose oldest state the iterator is at, and moves to the row before.
func (w *walker) backward() (kv store.KV, found, more bool, err error) {
	key, _, err := parseRowKey(w.it.Key())
	if err != nil {
		return kv, false, false, err
	}
	key = cloneKey(key)
	if w.it.SeekGE(rowKey(key, w.at)) {
		at, v, err := parseRowKey(w.it.Key())
		if err != nil {
			return kv, false, false, err
		}
		if string(at) == string(key) {
			if kv, found, err = w.rowAt(key, v); err != nil {
				return kv, false, false, err
			}
		}
	}
	return kv, found, w.it.SeekLT(rowPrefix(key)), nil
}

func (w *walker) rowAt(key []byte, v store.Version) (store.KV, bool, error) {
	row, err := rowAt(w.it, v)
	if err != nil || !row.Found {
		return store.KV{}, false, err
	}
	return store.KV{Key: cloneKey(key), Value: row.Value, Version: v}, true, nil
}
