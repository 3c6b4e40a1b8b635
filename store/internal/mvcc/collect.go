package mvcc

import (
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
)

// collectEntries bounds the log entries of one Collect, and so its memory and its batch.
const collectEntries = 4096

// Retention says what history is kept: an entry goes when it is older than OldestMs, or when more than Bytes were
// written after it, but never one after Keep.
type Retention struct {
	OldestMs int64
	Bytes    uint64
	Keep     store.Version
	// Written is the newest entry's count.
	Written uint64
}

// Collect removes history that is not to be kept, a bounded part at a time, and tells whether there may be more. The
// floor rises before anything is removed: a reader that finds its version at or above the floor after its read has read
// whole rows.
func (s *State) Collect(r Retention) (more bool, err error) {
	from := s.Floor()
	target, keys, err := s.collectable(from, r)
	if err != nil || target.Version == from {
		return false, err
	}
	s.mu.Lock()
	s.floor = target
	s.mu.Unlock()
	b := s.db.NewBatch()
	defer b.Close()
	for key := range keys {
		if err := s.collectRow(b, []byte(key), target.Version); err != nil {
			return false, err
		}
	}
	row, err := cbor.Marshal(target)
	if err != nil {
		return false, fmt.Errorf("encode floor: %w", err)
	}
	if err := b.Set(floorKey, row, nil); err != nil {
		return false, fmt.Errorf("write floor: %w", err)
	}
	if err := b.DeleteRange(logKey(from), logKey(target.Version+1), nil); err != nil {
		return false, fmt.Errorf("cut log: %w", err)
	}
	// Not synced: after a crash the same history is collected again.
	return true, s.db.Apply(b, pebble.NoSync)
}

// collectable finds how far the floor may rise, and the rows written on the way.
func (s *State) collectable(from store.Version, r Retention) (floor, map[string]struct{}, error) {
	s.mu.Lock()
	target := s.floor
	s.mu.Unlock()
	keys := map[string]struct{}{}
	n := 0
	err := s.Log(from, func(e Entry) bool {
		if e.Version > r.Keep || n == collectEntries || (e.TimeMs >= r.OldestMs && r.Written-e.Written <= r.Bytes) {
			return false
		}
		n++
		target = floor{Version: e.Version, Written: e.Written}
		for _, key := range e.Keys {
			keys[string(key)] = struct{}{}
		}
		return true
	})
	return target, keys, err
}

// collectRow removes what no reader at or above the floor sees of one row.
func (s *State) collectRow(b *pebble.Batch, key []byte, floor store.Version) error {
	prefix := rowPrefix(key)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: Comparer.ImmediateSuccessor(nil, prefix)})
	if err != nil {
		return fmt.Errorf("collect row %q: %w", key, err)
	}
	defer it.Close()
	ok := it.SeekGE(withVersion(slices.Clone(prefix), floor))
	if ok {
		// The newest at the floor stays, unless it is a deletion.
		_, deleted, err := parseValue(it.Value())
		if err != nil {
			return err
		}
		if !deleted {
			ok = it.Next()
		}
	}
	for ; ok; ok = it.Next() {
		if err := b.Delete(it.Key(), nil); err != nil {
			return fmt.Errorf("collect row %q: %w", key, err)
		}
	}
	return it.Error()
}
