package embed

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// clock is set by the test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func startClock() (*clock, env.Env) {
	c := &clock{now: time.UnixMilli(1_700_000_000_000)}
	return c, env.Env{Clock: c, Random: rand.Reader}
}

func transact(t *testing.T, db *store.DB, fn func(tx *store.Tx)) *store.Result {
	t.Helper()
	r, err := db.Transact(context.Background(), func(tx *store.Tx) error { fn(tx); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// evenOdd writes n, and a row that exists only after even numbers.
func evenOdd(n int64) func(tx *store.Tx) {
	return func(tx *store.Tx) {
		tx.Put(store.Key("n"), store.Int(n))
		if n%2 == 0 {
			tx.Put(store.Key("even"), store.Int(n))
		} else {
			tx.Delete(store.Key("even"))
		}
	}
}

// TestReopen keeps rows, versions, history, records and feeds over a restart.
func TestReopen(t *testing.T) {
	fs := vfs.NewMem()
	e, err := Open("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	db := store.New(e, store.Options{})
	for i := range int64(10) {
		transact(t, db, evenOdd(i))
	}
	failing := &store.Commit{ID: store.CommitID{Session: store.SessionID{7}, Seq: 1, Attempt: 1},
		NotAfterMs: time.Now().Add(time.Minute).UnixMilli(), Ops: []store.Op{{Kind: store.OpExpect, Key: store.Key("late"),
			Predicate: &store.Predicate{Kind: store.PredicateExists}}}}
	if a, err := e.Commit(context.Background(), failing); err != nil || a.Outcome != store.OutcomeGuardFailed {
		t.Fatalf("%+v, %v", a, err)
	}
	history := e.History()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, "db", Options{FS: fs})
	db = store.New(e, store.Options{})
	if v, err := db.Version(context.Background()); err != nil || v != 10 || e.History() != history {
		t.Errorf("version %d, history %v (was %v), %v", v, e.History(), history, err)
	}
	feed, err := db.Watch(context.Background(), 3, store.Prefix("even"))
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	for v := store.Version(4); v <= 10; v++ {
		b, err := feed.Next(context.Background())
		if err != nil || b.Version != v || len(b.Changes) != 1 || b.Changes[0].Deleted != (v%2 == 0) ||
			(!b.Changes[0].Deleted && b.Changes[0].Value.Int != int64(v)-1) {
			t.Fatalf("batch %+v, %v", b, err)
		}
	}
	if r := transact(t, db, evenOdd(10)); r.Version != 11 {
		t.Errorf("next version %d, want 11", r.Version)
	}
	if a, err := e.Commit(context.Background(), failing); err != nil || a.Outcome != store.OutcomeGuardFailed || a.Version != 10 {
		t.Errorf("resent after the restart: %+v, %v", a, err)
	}
}

// eventually waits for what a background goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// TestCollect removes history by age, never below a leased snapshot, and keeps what a reader at the floor sees.
func TestCollect(t *testing.T) {
	c, env := startClock()
	e := open(t, "db", Options{FS: vfs.NewMem(), Env: env, History: time.Minute, Lease: time.Hour, CollectEvery: time.Millisecond, FeedBytes: 1})
	db := store.New(e, store.Options{Env: env})
	for i := range int64(6) {
		transact(t, db, evenOdd(i))
	}
	leased, err := e.Snapshot(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	behind, err := db.Watch(context.Background(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	for i := int64(6); i < 12; i++ {
		transact(t, db, evenOdd(i))
	}
	c.advance(2 * time.Minute)
	transact(t, db, evenOdd(12))
	eventually(t, "the floor reaches the snapshot", func() bool { return e.Stats().Floor == 6 })
	n := append(store.HandlePrefix(0, ""), store.Prefix("n")...)
	if v, at, _, err := leased.Get(context.Background(), n); err != nil || v.Int != 5 || at != 6 {
		t.Errorf("the leased snapshot reads %d @%d, %v", v.Int, at, err)
	}
	if _, err := behind.Next(context.Background()); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("feed from before the floor: %v", err)
	}
	if _, err := db.Watch(context.Background(), 5); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from before the floor: %v", err)
	}
	leased.Release()
	eventually(t, "the floor reaches the last old version", func() bool { return e.Stats().Floor == 12 })
	if _, _, _, err := leased.Get(context.Background(), n); !errors.Is(err, store.ErrTooOld) {
		t.Errorf("read after release: %v", err)
	}
	for key, want := range map[string]int64{"n": 12, "even": 12} {
		err := db.View(context.Background(), func(r store.Reader) error {
			v, found, err := r.Get(context.Background(), store.Prefix(key))
			if !found || v.Int != want {
				t.Errorf("%s = %d %v, want %d", key, v.Int, found, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCollectBytes removes history by size, to the end of the log, and the version survives that and a restart.
func TestCollectBytes(t *testing.T) {
	fs := vfs.NewMem()
	e, err := Open("db", Options{FS: fs, HistoryBytes: 1, CollectEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	db := store.New(e, store.Options{})
	for i := range int64(31) {
		transact(t, db, evenOdd(i))
	}
	eventually(t, "the floor follows", func() bool { return e.Stats().Floor >= 30 })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, "db", Options{FS: fs})
	if v, err := store.New(e, store.Options{}).Version(context.Background()); err != nil || v != 31 {
		t.Errorf("version %d, %v", v, err)
	}
	left := 0
	if err := e.state.Log(0, func(mvcc.Entry) bool { left++; return true }); err != nil || left > 1 {
		t.Errorf("%d log entries are left, %v", left, err)
	}
}

// TestExpiredLease lets a snapshot that nobody releases not hold history for ever.
func TestExpiredLease(t *testing.T) {
	c, env := startClock()
	e := open(t, "db", Options{FS: vfs.NewMem(), Env: env, History: time.Minute, Lease: 5 * time.Minute, CollectEvery: time.Millisecond})
	db := store.New(e, store.Options{Env: env})
	transact(t, db, evenOdd(1))
	s, err := e.Snapshot(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	transact(t, db, evenOdd(2))
	c.advance(6 * time.Minute)
	transact(t, db, evenOdd(3))
	eventually(t, "the floor passes the snapshot", func() bool { return e.Stats().Floor == 2 })
	if _, err := s.Range(context.Background(), store.RangeOptions{}); !errors.Is(err, store.ErrTooOld) {
		t.Errorf("range: %v", err)
	}
	e.leases.mu.Lock()
	n := len(e.leases.open)
	e.leases.mu.Unlock()
	if n != 0 {
		t.Errorf("%d expired snapshots are remembered", n)
	}
}

// TestExpiredRecords forgets answers after their commits' deadline; a copy is refused, not run.
func TestExpiredRecords(t *testing.T) {
	c, env := startClock()
	e := open(t, "db", Options{FS: vfs.NewMem(), Env: env})
	commit := &store.Commit{ID: store.CommitID{Session: store.SessionID{7}, Seq: 1, Attempt: 1},
		NotAfterMs: c.Now().Add(time.Minute).UnixMilli(),
		Ops:        []store.Op{{Kind: store.OpAdd, Key: store.Key("n"), Delta: 1, Max: 9}}}
	if a, err := e.Commit(context.Background(), commit); err != nil || a.Outcome != store.OutcomeCommitted {
		t.Fatalf("%+v, %v", a, err)
	}
	c.advance(time.Hour)
	transact(t, store.New(e, store.Options{Env: env}), evenOdd(1))
	if n := e.records(t); n != 1 {
		t.Errorf("%d records are stored, want only the last", n)
	}
	if a, err := e.Commit(context.Background(), commit); err != nil || a.Reason != store.ReasonExpired {
		t.Errorf("late copy: %+v, %v", a, err)
	}
}

func (e *Engine) records(t *testing.T) (n int) {
	t.Helper()
	if err := e.state.Records(func(transactor.Record) { n++ }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSecondOpener(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second opener: %v", err)
	}
}

func TestNewerFormat(t *testing.T) {
	fs := vfs.NewMem()
	e, err := Open("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := pebble.Open("db", &pebble.Options{FS: fs, Comparer: mvcc.Comparer})
	if err != nil {
		t.Fatal(err)
	}
	newer, err := cbor.Marshal(map[int]any{1: mvcc.Format + 1, 2: make([]byte, 16), 3: []any{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(raw.Set([]byte("mformat\x00"), newer, pebble.Sync), raw.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("db", Options{FS: fs}); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("opened a newer format: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, Options{ReadOnly: true}); !errors.Is(err, ErrNoStore) {
		t.Errorf("no store: %v", err)
	}
	e, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	transact(t, store.New(e, store.Options{}), evenOdd(1))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	db := store.New(open(t, dir, Options{ReadOnly: true}), store.Options{})
	if v, err := db.Version(context.Background()); err != nil || v != 1 {
		t.Errorf("version %d, %v", v, err)
	}
	var refused *store.RefusedError
	if _, err := db.Transact(context.Background(), func(tx *store.Tx) error { tx.Delete(store.Key("n")); return nil }); !errors.As(err, &refused) {
		t.Errorf("write: %v", err)
	}
}

// full is a disk with little space.
type full struct{ vfs.FS }

func (full) GetDiskUsage(string) (vfs.DiskUsage, error) { return vfs.DiskUsage{AvailBytes: 5}, nil }

func TestDiskFull(t *testing.T) {
	e := open(t, "db", Options{FS: full{vfs.NewMem()}, CollectEvery: time.Millisecond})
	db := store.New(e, store.Options{})
	var refused *store.RefusedError
	eventually(t, "a write is refused", func() bool {
		_, err := db.Transact(context.Background(), func(tx *store.Tx) error { tx.Put(store.Key("a"), store.Int(1)); return nil })
		return errors.As(err, &refused)
	})
	if refused.Reason != store.ReasonDiskFull || refused.Retry != store.RetryLater {
		t.Errorf("refused %+v", refused)
	}
}

// TestQueueBounds fills the queue behind a closed disk: others are refused, and a caller that gives up is withdrawn.
func TestQueueBounds(t *testing.T) {
	q := newQueue(3, 2)
	w := func(tenant string) *waiter {
		return &waiter{commit: &store.Commit{Tenant: tenant}, done: make(chan struct{})}
	}
	push := func(w *waiter) store.Reason {
		a, err := q.push(w)
		if err != nil {
			t.Fatal(err)
		}
		if a == nil {
			return 0
		}
		return a.Reason
	}
	first, second := w("a"), w("a")
	if push(first) != 0 || push(second) != 0 || push(w("a")) != store.ReasonOverloaded {
		t.Error("a tenant may have two waiting, and no more")
	}
	if push(w("b")) != 0 || push(w("c")) != store.ReasonOverloaded {
		t.Error("three may wait, and no more")
	}
	if !q.withdraw(second) || push(w("a")) != 0 {
		t.Error("who withdraws makes room")
	}
	if taken := q.take(1); len(taken) != 1 || taken[0] != first || q.withdraw(first) {
		t.Error("the first is taken first, and cannot be withdrawn then")
	}
	if len(q.take(9)) != 2 || len(q.tenants) != 0 {
		t.Error("two are left, then none")
	}
}

func TestCancelledCaller(t *testing.T) {
	g := &gate{}
	e := open(t, "db", Options{FS: errorfs.Wrap(vfs.NewMem(), g)})
	db := store.New(e, store.Options{})
	g.close()
	opened := sync.OnceFunc(g.open)
	defer opened()
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, 1)
	for i := range pipelineDepth {
		go func() {
			_, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Put(store.Key("taken"), store.Int(1)); return nil })
			errs <- err
		}()
		evaluated(t, e, i+1)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Put(store.Key("waits"), store.Int(1)); return nil })
		waiting <- err
	}()
	eventually(t, "a commit waits", func() bool {
		e.queue.mu.Lock()
		defer e.queue.mu.Unlock()
		return len(e.queue.waiting) == 1
	})
	cancel()
	for range pipelineDepth {
		if err := <-errs; !errors.Is(err, store.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("taken: %v", err)
		}
	}
	if err := <-waiting; errors.Is(err, store.ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: %v", err)
	}
	opened()
	err := db.View(context.Background(), func(r store.Reader) error {
		_, found, err := r.Get(context.Background(), store.Prefix("waits"))
		if found {
			t.Error("the withdrawn commit was applied")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestManyClients has more commits under way on one handle than a session remembers.
func TestManyClients(t *testing.T) {
	const clients, rounds = 3 * store.MaxSessionRecords, 3
	e := open(t, "db", Options{FS: vfs.NewMem()})
	db := store.New(e, store.Options{})
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for range rounds {
				_, err := db.Transact(context.Background(), func(tx *store.Tx) error { tx.Add(store.Key("n"), 1, 0, 1<<40); return nil })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if r := transact(t, db, func(tx *store.Tx) { tx.Expect(store.Key("n"), store.IntEquals(clients*rounds)) }); r.Version != clients*rounds+1 {
		t.Errorf("version %d", r.Version)
	}
}

func TestStats(t *testing.T) {
	e := open(t, "db", Options{FS: vfs.NewMem()})
	db := store.New(e, store.Options{})
	for i := range statKeys + 10 {
		_, err := db.Transact(context.Background(), func(tx *store.Tx) error {
			tx.Add(store.Key("left", i), -1, 0, 9)
			return nil
		})
		if err == nil {
			t.Fatal("took from nothing")
		}
	}
	transact(t, db, evenOdd(1))
	s := e.Stats()
	var syncs uint64
	for _, n := range s.SyncMicros {
		syncs += n
	}
	if s.Commits != 1 || s.GuardFailures != statKeys+10 || len(s.GuardKeys) != statKeys+1 || s.GuardKeys[""] != 10 ||
		syncs != s.Batches || s.BatchCommits != statKeys+11 || s.Durable != 1 {
		t.Errorf("%+v", s)
	}
}
