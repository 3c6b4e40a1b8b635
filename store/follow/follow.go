// Package follow keeps an in-memory view of rows up to date: one snapshot, then every transaction after it.
//
// A Follower owns its position and nothing else. It calls apply from one goroutine, in version order, without gap or
// repetition, with all that it has been told meanwhile: the further it is behind, the less a transaction costs. When
// the history it stood on is gone it starts over with a snapshot, which replaces all that the view holds. WaitVersion makes reads of a view see a version that the caller knows of.
//
// Deliberately absent: the view itself and its locks. Start with New, Run and WaitVersion.
package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/nimbrel/nimbrel/store"
)

// Batch is one step: the whole content of the prefixes at a version when Snapshot is set, else the changes of one transaction
// or of several that follow each other, in their order. Keys are relative to the handle.
type Batch struct {
	Snapshot bool
	Version  store.Version
	Changes  []store.Change
}

// Follower follows the rows under some prefixes.
type Follower struct {
	db       *store.DB
	prefixes [][]byte
	apply    func(b Batch)

	mu      sync.Mutex
	version store.Version // mu; applied up to here
	ready   bool          // mu; a snapshot was applied
	moved   chan struct{} // mu; closed and replaced when version moves
}

// New returns a follower that does nothing until Run. No prefix means all of the handle.
func New(db *store.DB, prefixes [][]byte, apply func(b Batch)) *Follower {
	if len(prefixes) == 0 {
		prefixes = [][]byte{nil}
	}
	return &Follower{db: db, prefixes: prefixes, apply: apply, moved: make(chan struct{})}
}

// Run follows until ctx ends or the store is closed, and returns why. Call it once.
func (f *Follower) Run(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		if !errors.Is(err, store.ErrCompacted) && !errors.Is(err, store.ErrOtherHistory) && !errors.Is(err, store.ErrTooOld) {
			return err
		}
	}
}

// Version returns the version that was applied last; ready is false before the first snapshot.
func (f *Follower) Version() (v store.Version, ready bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version, f.ready
}

// WaitVersion returns when everything up to a version has been applied.
func (f *Follower) WaitVersion(ctx context.Context, v store.Version) error {
	for {
		f.mu.Lock()
		reached, moved := f.ready && f.version >= v, f.moved
		at := f.version
		f.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for version %d, view is at %d: %w", v, at, ctx.Err())
		case <-moved:
		}
	}
}

// follow takes a snapshot and follows from there, until an error.
func (f *Follower) follow(ctx context.Context) error {
	b, err := f.snapshot(ctx)
	if err != nil {
		return err
	}
	feed, err := f.db.Watch(ctx, b.Version, f.prefixes...)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer feed.Close()
	f.apply(b)
	f.reach(b.Version)
	ended, end := context.WithCancel(ctx)
	end()
	for {
		next, err := gather(ctx, ended, feed)
		if err != nil {
			return fmt.Errorf("follow from version %d: %w", b.Version, err)
		}
		if len(next.Changes) > 0 {
			f.apply(next)
		}
		f.reach(next.Version)
	}
}

// gatherChanges bounds the changes that are applied at once, but for those of one transaction.
const gatherChanges = 1024

// gather waits for the next transaction, or progress mark, and takes those along that are at hand. ended is a context that
// has ended.
func gather(ctx, ended context.Context, feed store.Feed) (Batch, error) {
	next, err := feed.Next(ctx)
	if err != nil {
		return Batch{}, err
	}
	b := Batch{Version: next.Version, Changes: slices.Clip(next.Changes)}
	for len(b.Changes) < gatherChanges {
		if next, err = feed.Next(ended); err != nil {
			break // an error that is not of ended comes again
		}
		b.Version, b.Changes = next.Version, append(b.Changes, next.Changes...)
	}
	return b, nil
}

func (f *Follower) reach(v store.Version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready && f.version == v {
		return
	}
	f.version, f.ready = v, true
	close(f.moved)
	f.moved = make(chan struct{})
}

// snapshot reads all rows under the prefixes at one version.
func (f *Follower) snapshot(ctx context.Context) (b Batch, err error) {
	b.Snapshot = true
	err = f.db.View(ctx, func(r store.Reader) error {
		b.Version = r.Version()
		for _, p := range f.prefixes {
			if err := read(ctx, r, p, &b); err != nil {
				return fmt.Errorf("read rows under %q: %w", p, err)
			}
		}
		return nil
	})
	return b, err
}

func read(ctx context.Context, r store.Reader, prefix []byte, b *Batch) error {
	o := store.RangeOptions{Begin: prefix, End: store.PrefixEnd(prefix), Limit: store.MaxRangeRows}
	for {
		rows, err := r.Range(ctx, o)
		if err != nil {
			return err
		}
		for _, kv := range rows {
			b.Changes = append(b.Changes, store.Change{Key: kv.Key, Value: kv.Value, Version: kv.Version})
		}
		if len(rows) < o.Limit {
			return nil
		}
		o.Begin = append(append([]byte{}, rows[len(rows)-1].Key...), 0)
	}
}
