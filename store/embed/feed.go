package embed

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// feedChunk bounds the log entries that a feed reads from disk at once.
const feedChunk = 256

// feed walks the transactions after a version: in memory when they are recent, else through the log on disk.
type feed struct {
	e        *Engine
	at       store.Version // everything up to here was shown or is of no interest
	told     store.Version // newest version that the caller knows of
	prefixes [][]byte
	chunk    []store.Batch // next transactions, version at+1 first
	closed   atomic.Bool
}

// Watch streams the transactions after a version that touch a key under one of the prefixes; none means all. Versions
// that this history has not reached are of another one.
func (e *Engine) Watch(_ context.Context, from store.Version, prefixes ...[]byte) (store.Feed, error) {
	v, _, closed := e.durable.now()
	floor := e.state.Floor()
	switch {
	case closed:
		return nil, store.ErrClosed
	case from > v:
		return nil, fmt.Errorf("watch from version %d, newest is %d: %w", from, v, store.ErrOtherHistory)
	case from < floor:
		return nil, fmt.Errorf("watch from version %d, history starts at %d: %w", from, floor, store.ErrCompacted)
	}
	return &feed{e: e, at: from, told: from, prefixes: prefixes}, nil
}

// Next returns the next transaction, or a progress mark: at once after transactions of no interest, else after
// store.ProgressInterval.
func (f *feed) Next(ctx context.Context) (store.Batch, error) {
	progress := time.NewTimer(store.ProgressInterval)
	defer progress.Stop()
	for {
		v, advanced, closed := f.e.durable.now()
		if closed || f.closed.Load() {
			return store.Batch{}, store.ErrClosed
		}
		for f.at < v {
			// A long walk over others' transactions ends at the mark too.
			select {
			case <-progress.C:
				return f.progress(), nil
			default:
			}
			b, found, err := f.step(ctx)
			if err != nil || found {
				return b, err
			}
		}
		if f.told < f.at { // passed what is of no interest: whoever waits for that version can go on
			return f.progress(), nil
		}
		select {
		case <-ctx.Done():
			return store.Batch{}, ctx.Err()
		case <-progress.C:
			return f.progress(), nil
		case <-advanced:
		}
	}
}

func (f *feed) progress() store.Batch {
	f.told = f.at
	return store.Batch{History: f.e.state.History(), Version: f.at, Progress: true}
}

// step moves over one transaction.
func (f *feed) step(ctx context.Context) (b store.Batch, found bool, err error) {
	if len(f.chunk) == 0 {
		if err := f.fill(ctx); err != nil {
			return b, false, err
		}
	}
	b, f.chunk = f.chunk[0], f.chunk[1:]
	f.at = b.Version
	if b.Changes = f.wanted(b.Changes); len(b.Changes) == 0 {
		return b, false, nil
	}
	f.told = f.at
	return b, true, nil
}

func (f *feed) wanted(changes []store.Change) []store.Change {
	out := make([]store.Change, 0, len(changes))
	for _, c := range changes {
		if f.wants(c.Key) {
			out = append(out, c)
		}
	}
	return out
}

func (f *feed) wants(key []byte) bool {
	return len(f.prefixes) == 0 || slices.ContainsFunc(f.prefixes, func(p []byte) bool { return store.HasPrefix(key, p) })
}

// fill finds the transactions after f.at; there is at least one, as a newer version is durable.
func (f *feed) fill(ctx context.Context) error {
	batches, ok := f.e.durable.after(f.at)
	if ok {
		f.chunk = batches[:min(len(batches), feedChunk)]
		return nil
	}
	if err := f.e.leases.begin(); err != nil {
		return err
	}
	defer f.e.leases.reads.Done()
	durable, _, _ := f.e.durable.now()
	chunk, err := f.read(ctx, durable)
	if floor := f.e.state.Floor(); f.at < floor {
		return fmt.Errorf("feed at version %d, history starts at %d: %w", f.at, floor, store.ErrCompacted)
	}
	if err == nil && len(chunk) == 0 {
		err = fmt.Errorf("feed at version %d: the log ends before version %d", f.at, durable)
	}
	f.chunk = chunk
	return err
}

// read reads the next transactions from disk, with the rows that the feed wants.
func (f *feed) read(ctx context.Context, upTo store.Version) (chunk []store.Batch, err error) {
	var entries []mvcc.Entry
	err = f.e.state.Log(f.at, func(entry mvcc.Entry) bool {
		if entry.Version > upTo || len(entries) == feedChunk || ctx.Err() != nil {
			return false
		}
		entries = append(entries, entry)
		return true
	})
	for _, entry := range entries {
		if err != nil || ctx.Err() != nil {
			return nil, cmpError(err, ctx.Err())
		}
		var b store.Batch
		b, err = f.transaction(entry)
		chunk = append(chunk, b)
	}
	return chunk, cmpError(err, ctx.Err())
}

func cmpError(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (f *feed) transaction(entry mvcc.Entry) (store.Batch, error) {
	b := store.Batch{History: f.e.state.History(), Version: entry.Version}
	for _, key := range entry.Keys {
		if !f.wants(key) {
			continue
		}
		row, err := f.e.state.Get(key, entry.Version)
		if err != nil {
			return b, err
		}
		b.Changes = append(b.Changes, store.Change{Key: key, Value: row.Value, Deleted: !row.Found, Version: entry.Version})
	}
	return b, nil
}

// Close ends the feed: a Next under way returns at its next progress mark.
func (f *feed) Close() { f.closed.Store(true) }
