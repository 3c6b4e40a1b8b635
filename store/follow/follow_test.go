package follow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// view is a copy of the rows.
type view struct {
	mu        sync.Mutex
	rows      map[string]int64
	snapshots int
	last      store.Version
	disorder  bool
}

func (v *view) apply(b Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.Snapshot {
		v.rows, v.snapshots = map[string]int64{}, v.snapshots+1
	} else if b.Version <= v.last {
		v.disorder = true
	}
	v.last = b.Version
	for _, c := range b.Changes {
		if c.Deleted {
			delete(v.rows, string(c.Key))
		} else {
			v.rows[string(c.Key)] = c.Value.Int
		}
	}
}

func (v *view) copied() (map[string]int64, int, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.rows), v.snapshots, v.disorder
}

func write(t *testing.T, db *store.DB, fn func(tx *store.Tx)) store.Version {
	t.Helper()
	r, err := db.Transact(context.Background(), func(tx *store.Tx) error { fn(tx); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return r.Version
}

func start(t *testing.T, f *Follower) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
}

func wait(t *testing.T, f *Follower, v store.Version) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.WaitVersion(ctx, v); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{Tenant: "t"})
	write(t, db, func(tx *store.Tx) { tx.Put(store.Key("a", 1), store.Int(1)); tx.Put(store.Key("c"), store.Int(1)) })
	v := &view{}
	f := New(db, [][]byte{store.Prefix("a"), store.Prefix("b")}, v.apply)
	if _, ready := f.Version(); ready {
		t.Error("ready before Run")
	}
	start(t, f)
	wait(t, f, 1)
	write(t, db, func(tx *store.Tx) { tx.Put(store.Key("b", 1), store.Int(2)) })
	write(t, db, func(tx *store.Tx) { tx.Delete(store.Key("a", 1)); tx.Put(store.Key("a", 2), store.Int(3)) })
	// A transaction of others moves the view's version as well.
	wait(t, f, write(t, db, func(tx *store.Tx) { tx.Put(store.Key("c"), store.Int(4)) }))
	rows, snapshots, disorder := v.copied()
	want := map[string]int64{string(store.Prefix("a", 2)): 3, string(store.Prefix("b", 1)): 2}
	if !maps.Equal(rows, want) || snapshots != 1 || disorder {
		t.Errorf("rows %v, want %v; %d snapshots, disorder %v", rows, want, snapshots, disorder)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := f.WaitVersion(ctx, 99); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for the future: %v", err)
	}
}

// compacting is an engine whose first feed loses its history.
type compacting struct {
	*storetest.Memory
	once sync.Once
}

func (c *compacting) Watch(ctx context.Context, from store.Version, prefixes ...[]byte) (store.Feed, error) {
	var err error
	c.once.Do(func() { err = fmt.Errorf("first watch: %w", store.ErrCompacted) })
	if err != nil {
		return nil, err
	}
	return c.Memory.Watch(ctx, from, prefixes...)
}

// TestFollowStartsOver loses the history between snapshot and feed.
func TestFollowStartsOver(t *testing.T) {
	db := store.New(&compacting{Memory: storetest.NewMemoryWith(env.System())}, store.Options{})
	at := write(t, db, func(tx *store.Tx) { tx.Put(store.Key("a"), store.Int(1)) })
	v := &view{}
	f := New(db, nil, v.apply)
	start(t, f)
	wait(t, f, at)
	wait(t, f, write(t, db, func(tx *store.Tx) { tx.Put(store.Key("a"), store.Int(2)) }))
	if rows, snapshots, disorder := v.copied(); rows[string(store.Prefix("a"))] != 2 || snapshots != 1 || disorder {
		t.Errorf("rows %v, %d snapshots, disorder %v", rows, snapshots, disorder)
	}
}

// TestFollowCatchesUp holds that a view whose taking is slow takes more at a time, and all of it.
func TestFollowCatchesUp(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{Tenant: "t"})
	v := &view{}
	steps, first, hold := 0, make(chan struct{}), make(chan struct{})
	f := New(db, [][]byte{store.Prefix("a")}, func(b Batch) {
		if steps++; steps == 2 { // after the snapshot
			close(first)
			<-hold
		}
		v.apply(b)
	})
	start(t, f)
	wait(t, f, 0)
	const transactions = 3*gatherChanges + 1
	var last store.Version
	for i := range transactions {
		last = write(t, db, func(tx *store.Tx) { tx.Put(store.Key("a", i%7), store.Int(int64(i))) })
		if i == 0 {
			<-first
		}
	}
	close(hold)
	wait(t, f, last)
	rows, _, disorder := v.copied()
	if len(rows) != 7 || rows[string(store.Prefix("a", (transactions-1)%7))] != transactions-1 || disorder {
		t.Errorf("rows %v, disorder %v", rows, disorder)
	}
	if steps > 10 {
		t.Errorf("%d steps for %d transactions that waited", steps, transactions)
	}
}
