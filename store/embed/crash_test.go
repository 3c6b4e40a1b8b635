package embed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/nimbrel/nimbrel/store"
)

// sent is a commit of a crash run, with the version it was acknowledged at, if it was.
type sent struct {
	commit *store.Commit
	acked  store.Version
}

// client adds 1 to a shared counter and appends a row of its own, again and again, until the engine is gone.
func client(e *Engine, id byte, rounds int, out *[]*sent) {
	for i := range rounds {
		c := &store.Commit{
			ID:         store.CommitID{Session: store.SessionID{id}, Seq: uint64(i + 1), Attempt: 1},
			NotAfterMs: time.Now().Add(time.Minute).UnixMilli(),
			Ops: []store.Op{
				{Kind: store.OpAdd, Index: 0, Key: store.Key("n"), Delta: 1, Min: 0, Max: 1 << 40},
				{Kind: store.OpPut, Index: 1, Key: store.Key("row", uint64(id), uint64(i)), Value: store.SlotValue(store.Slot{Op: 0, Kind: store.SlotInt})},
			},
		}
		s := &sent{commit: c}
		*out = append(*out, s)
		if a, err := e.Commit(context.Background(), c); err == nil && a.Outcome == store.OutcomeCommitted {
			s.acked = a.Version
		}
	}
}

// TestCrash takes the disk away at a random moment, many times. Everything acknowledged is there after it, everything
// that is there is whole and without a hole, and resending every commit applies each exactly once.
func TestCrash(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crash(t, seed) })
	}
}

func crash(t *testing.T, seed uint64) {
	const clients, rounds = 4, 25
	random := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	e := open(t, "db", Options{FS: fs})
	all := make([][]*sent, clients)
	var group sync.WaitGroup
	for id := range clients {
		group.Go(func() { client(e, byte(id+1), rounds, &all[id]) })
	}
	// The crash is at a commit chosen by the seed; what was acknowledged by then must survive.
	moment := store.Version(random.IntN(clients * rounds))
	s, err := e.Snapshot(context.Background(), moment)
	if err != nil {
		t.Fatal(err)
	}
	known := s.Version()
	s.Release()
	disk := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: random})
	group.Wait()

	after := open(t, "db", Options{FS: disk})
	found := recovered(t, after)
	if found < known {
		t.Fatalf("version %d was durable, %d is there", known, found)
	}
	for _, list := range all {
		for _, c := range list {
			a, err := after.Commit(context.Background(), c.commit)
			if err != nil || a.Outcome != store.OutcomeCommitted {
				t.Fatalf("resend: %+v, %v", a, err)
			}
			if c.acked != 0 && c.acked <= found && a.Version != c.acked {
				t.Fatalf("commit %v was version %d, is %d", c.commit.ID, c.acked, a.Version)
			}
		}
	}
	if n := recovered(t, after); n != clients*rounds {
		t.Errorf("%d commits after resending, want %d", n, clients*rounds)
	}
}

// recovered checks that the state is exactly that of the commits up to its version, and returns the version.
func recovered(t *testing.T, e *Engine) store.Version {
	t.Helper()
	ctx := context.Background()
	s, err := e.Snapshot(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	n, _, _, err := s.Get(ctx, store.Prefix("n"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := s.Range(ctx, store.RangeOptions{Begin: store.Prefix("row"), End: store.PrefixEnd(store.Prefix("row"))})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for _, kv := range rows {
		if seen[kv.Value.Int] || kv.Value.Int != int64(kv.Version) {
			t.Fatalf("row %x = %d @%d: twice, or of another commit", kv.Key, kv.Value.Int, kv.Version)
		}
		seen[kv.Value.Int] = true
	}
	if n.Int != int64(len(rows)) || n.Int != int64(s.Version()) {
		t.Fatalf("n is %d with %d rows at version %d: a hole", n.Int, len(rows), s.Version())
	}
	return s.Version()
}

// gate holds back the log's syncs while it is closed.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
	fail   error
}

func (g *gate) MaybeError(op errorfs.Op) error {
	if op.Kind != errorfs.OpFileSync && op.Kind != errorfs.OpFileSyncData && op.Kind != errorfs.OpFileSyncTo {
		return nil
	}
	g.mu.Lock()
	closed, fail := g.closed, g.fail
	g.mu.Unlock()
	if closed != nil {
		<-closed
	}
	return fail
}

func (g *gate) String() string { return "gate" }

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.closed)
	g.closed = nil
}

// TestNothingLeavesBeforeDurable holds the disk back: the commit itself, and a guard failure and a conflict that were
// computed on it, stay unanswered, and no reader or feed sees it.
func TestNothingLeavesBeforeDurable(t *testing.T) {
	g := &gate{}
	e := open(t, "db", Options{FS: errorfs.Wrap(vfs.NewMem(), g)})
	ctx := context.Background()
	db := store.New(e, store.Options{})
	if _, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Put(store.Key("left"), store.Int(1)); return nil }); err != nil {
		t.Fatal(err)
	}
	before, err := e.Snapshot(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Release()
	g.close()
	opened := sync.OnceFunc(g.open)
	defer opened()
	answers := make(chan *store.Answer, 3)
	send := func(seq uint64, c store.Commit) {
		c.ID, c.NotAfterMs = store.CommitID{Session: store.SessionID{9}, Seq: seq, Attempt: 1}, time.Now().Add(time.Minute).UnixMilli()
		a, err := e.Commit(ctx, &c)
		if err != nil {
			t.Error(err)
		}
		answers <- a
	}
	left := append(store.HandlePrefix(0, ""), store.Prefix("left")...)
	take := store.Op{Kind: store.OpAdd, Key: store.RawKey(left), Delta: -1, Min: 0, Max: 9}
	go send(1, store.Commit{Ops: []store.Op{take}})
	evaluated(t, e, 1)
	go send(2, store.Commit{Ops: []store.Op{take}})
	go send(3, store.Commit{ReadHistory: e.History(), ReadVersion: before.Version(), Reads: []store.ReadRange{{Begin: left}},
		Ops: []store.Op{{Kind: store.OpPut, Key: store.RawKey(left), Value: store.Int(9)}}})
	evaluated(t, e, 2)

	select {
	case a := <-answers:
		t.Fatalf("answer %+v left before its state was durable", a)
	case <-time.After(100 * time.Millisecond):
	}
	now, err := e.Snapshot(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer now.Release()
	if v, _, _, err := now.Get(ctx, left); err != nil || v.Int != 1 || now.Version() != 1 {
		t.Errorf("a reader sees %d at version %d, %v", v.Int, now.Version(), err)
	}
	feed, err := e.Watch(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	if b, err := feed.Next(ctx); err != nil || !b.Progress || b.Version != 1 {
		t.Errorf("a feed sees %+v, %v", b, err)
	}

	opened()
	outcomes := map[store.Outcome]int{}
	for range 3 {
		outcomes[(<-answers).Outcome]++
	}
	if outcomes[store.OutcomeCommitted] != 1 || outcomes[store.OutcomeGuardFailed] != 1 || outcomes[store.OutcomeConflict] != 1 {
		t.Errorf("outcomes %v, want one of each", outcomes)
	}
}

// evaluated waits until the transactor has passed on a number of batches that are not durable.
func evaluated(t *testing.T, e *Engine, batches int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for len(e.slots) < batches {
		if time.Now().After(deadline) {
			t.Fatalf("%d batches under way, want %d", len(e.slots), batches)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFailedSync ends the process, as seen by Options.Fatal, and answers nothing.
func TestFailedSync(t *testing.T) {
	g := &gate{}
	died := make(chan error, 1)
	e, err := Open("db", Options{FS: errorfs.Wrap(vfs.NewMem(), g), Fatal: func(err error) {
		died <- err
		select {} // a fatal error does not return; the engine is left as it is
	}})
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.fail = errors.New("medium error")
	g.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	answered := make(chan error, 1)
	go func() {
		_, err := store.New(e, store.Options{}).Transact(ctx, func(tx *store.Tx) error { tx.Put(store.Key("a"), store.Int(1)); return nil })
		answered <- err
	}()
	select {
	case <-died:
	case err := <-answered:
		t.Fatalf("answered %v", err)
	case <-time.After(time.Minute):
		t.Fatal("neither dead nor answered")
	}
	cancel()
	if err := <-answered; !errors.Is(err, store.ErrUnknown) {
		t.Errorf("the caller hears %v, want unknown", err)
	}
}
