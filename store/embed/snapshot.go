package embed

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/store"
)

// leases are the open snapshots.
type leases struct {
	mu     sync.Mutex
	closed bool                   // mu
	open   map[*snapshot]struct{} // mu
	// reads counts the reads under way, so that the directory is not closed under them.
	reads sync.WaitGroup
}

// oldest returns the least version that an unexpired snapshot needs, at most v. Expired ones are forgotten, so that what
// a reader never released is not kept for ever.
func (l *leases) oldest(v store.Version, now time.Time) store.Version {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.open {
		if !now.Before(s.expires) {
			delete(l.open, s)
			continue
		}
		v = min(v, s.version)
	}
	return v
}

// begin admits one read.
func (l *leases) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return store.ErrClosed
	}
	l.reads.Add(1)
	return nil
}

func (l *leases) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.reads.Wait()
}

// snapshot reads the rows as of a durable version.
type snapshot struct {
	e       *Engine
	version store.Version
	expires time.Time
}

// Snapshot returns the newest durable state that is at least the given version. It holds history for Options.Lease.
func (e *Engine) Snapshot(ctx context.Context, atLeast store.Version) (store.Snapshot, error) {
	for {
		v, advanced, closed := e.durable.now()
		if closed {
			return nil, store.ErrClosed
		}
		if v >= atLeast {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for version %d, now %d: %w", atLeast, v, ctx.Err())
		case <-advanced:
		}
	}
	s := &snapshot{e: e, expires: e.options.Env.Clock.Now().Add(e.options.Lease)}
	e.leases.mu.Lock()
	defer e.leases.mu.Unlock()
	// The version is read under the lock: the collector cannot pass it before it is in the list.
	s.version, _, _ = e.durable.now()
	e.leases.open[s] = struct{}{}
	return s, nil
}

func (s *snapshot) History() store.HistoryID { return s.e.state.History() }

func (s *snapshot) Version() store.Version { return s.version }

// Get reads one row.
func (s *snapshot) Get(ctx context.Context, key []byte) (store.Value, store.Version, bool, error) {
	if err := s.begin(ctx); err != nil {
		return store.Value{}, 0, false, err
	}
	defer s.e.leases.reads.Done()
	row, err := s.e.state.Get(key, s.version)
	if err == nil {
		err = s.valid()
	}
	return row.Value, row.Version, row.Found, err
}

// Range reads rows in key order.
func (s *snapshot) Range(ctx context.Context, o store.RangeOptions) ([]store.KV, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.e.leases.reads.Done()
	if o.Limit <= 0 || o.Limit > store.MaxRangeRows {
		o.Limit = store.MaxRangeRows
	}
	rows, err := s.e.state.Range(ctx, o, s.version)
	if err == nil {
		err = s.valid()
	}
	return rows, err
}

func (s *snapshot) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.e.leases.begin()
}

// valid tells, after a read, whether the history it read was still whole.
func (s *snapshot) valid() error {
	if floor := s.e.state.Floor(); s.version < floor {
		return fmt.Errorf("snapshot of version %d, history starts at %d: %w", s.version, floor, store.ErrTooOld)
	}
	return nil
}

// Release ends the lease. Reads after it may find the history gone.
func (s *snapshot) Release() {
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	delete(s.e.leases.open, s)
}
