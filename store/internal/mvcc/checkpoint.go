package mvcc

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
)

// Flush writes what is in memory into tables, so that a checkpoint right after it has next to no log to copy.
func (s *State) Flush() error {
	if err := s.db.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Checkpoint makes a directory, which must not exist, that opens as this state is now. Tables are linked, not copied,
// where the file system can. No batch may be applied meanwhile, Collect's included: a log that grows while it is copied
// looks damaged afterwards.
func (s *State) Checkpoint(dir string) error {
	if err := s.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("make checkpoint %s: %w", dir, err)
	}
	return nil
}

// Restored says which past a directory was restored from.
type Restored struct {
	History store.HistoryID
	Version store.Version // the newest that both have
}

// BeginHistory gives a directory that nobody has open a history of its own, and returns it with what it was before. Rows,
// versions, log and records stay: up to this version both histories are one.
func BeginHistory(dir string, o Options) (_ store.HistoryID, before Restored, err error) {
	s, err := openExisting(dir, o)
	if err != nil {
		return store.HistoryID{}, before, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var f formatRow
	if _, err := s.meta(formatKey, &f); err != nil {
		return store.HistoryID{}, before, err
	}
	before = Restored{History: f.History, Version: s.last.Version}
	if _, err := io.ReadFull(o.Random, f.History[:]); err != nil {
		return store.HistoryID{}, before, fmt.Errorf("draw history id: %w", err)
	}
	f.Changes = append(f.Changes, formatChange{Number: f.Number, AtMs: o.NowMs, From: before.History[:], FromVersion: before.Version})
	b, err := cbor.Marshal(f)
	if err != nil {
		return store.HistoryID{}, before, fmt.Errorf("encode format: %w", err)
	}
	return f.History, before, s.db.Set(formatKey, b, pebble.Sync)
}

// openExisting opens a directory for writing, and never makes one.
func openExisting(dir string, o Options) (*State, error) {
	look := o
	look.ReadOnly = true
	s, err := Open(dir, look)
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	return Open(dir, o)
}
