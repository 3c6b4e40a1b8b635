package storetest

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/nimbrel/nimbrel/store"
)

//go:embed scripts/*.txt
var scripts embed.FS

// RunConformance checks an engine against the contract. Each call of open gives an empty engine of its own, which the
// suite closes. The engine's clock must run with the machine's.
func RunConformance(t *testing.T, open func() store.Engine) {
	tests := map[string]func(*testing.T, store.Engine){
		"snapshots":          testSnapshots,
		"ranges":             testRanges,
		"conflicts":          testConflicts,
		"other history":      testOtherHistory,
		"resent":             testResent,
		"resent failure":     testResentFailure,
		"cancelled":          testCancelled,
		"acknowledged":       testAcknowledged,
		"limits":             testLimits,
		"feed":               testFeed,
		"feed of a prefix":   testFeedPrefix,
		"feed stops":         testFeedStops,
		"concurrent guards":  testConcurrentGuards,
		"concurrent updates": testConcurrentUpdates,
		"closed":             testClosed,
		"model":              testModel,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := open()
			defer e.Close()
			test(t, e)
		})
	}
	t.Run("scripts", func(t *testing.T) { testScripts(t, open) })
}

// suite is one engine under test, with a session of its own.
type suite struct {
	t    *testing.T
	e    store.Engine
	next uint64
}

func newSuite(t *testing.T, e store.Engine) *suite { return &suite{t: t, e: e} }

func key(parts ...any) []byte { return store.Prefix(parts...) }

// put is the operation number index of a commit.
func put(index int, k []byte, n int64) store.Op {
	return store.Op{Kind: store.OpPut, Index: uint32(index), Key: store.RawKey(k), Value: store.Int(n)}
}

func add(index int, k []byte, delta, least, most int64) store.Op {
	return store.Op{Kind: store.OpAdd, Index: uint32(index), Key: store.RawKey(k), Delta: delta, Min: least, Max: most}
}

// commit builds a fresh commit of the operations.
func (s *suite) commit(ops ...store.Op) *store.Commit {
	s.next++
	return &store.Commit{
		ID:         store.CommitID{Session: store.SessionID{1}, Seq: s.next, Attempt: 1},
		NotAfterMs: time.Now().Add(time.Minute).UnixMilli(),
		Ops:        ops,
	}
}

func (s *suite) send(c *store.Commit) *store.Answer {
	s.t.Helper()
	a, err := s.e.Commit(s.t.Context(), c)
	if err != nil {
		s.t.Fatalf("commit %v: %v", c.ID, err)
	}
	return a
}

// must sends the operations and returns their version.
func (s *suite) must(ops ...store.Op) store.Version {
	s.t.Helper()
	a := s.send(s.commit(ops...))
	if a.Outcome != store.OutcomeCommitted {
		s.t.Fatalf("answer %+v, want committed", a)
	}
	return a.Version
}

func (s *suite) snapshot(atLeast store.Version) store.Snapshot {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	snap, err := s.e.Snapshot(ctx, atLeast)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(snap.Release)
	return snap
}

// read returns a row's integer, or -1 when it does not exist.
func (s *suite) read(snap store.Snapshot, k []byte) int64 {
	s.t.Helper()
	v, _, found, err := snap.Get(s.t.Context(), k)
	if err != nil {
		s.t.Fatal(err)
	}
	if !found {
		return -1
	}
	return v.Int
}

func testSnapshots(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	empty := s.snapshot(0)
	v1 := s.must(put(0, key("a"), 1), put(1, key("b"), 1))
	one := s.snapshot(v1)
	v2 := s.must(put(0, key("a"), 2), store.Op{Kind: store.OpDelete, Index: 1, Key: store.Key("b")})
	two := s.snapshot(v2)
	v3 := s.must(put(0, key("b"), 3))
	three := s.snapshot(v3)
	if empty.Version() != 0 || v1 >= v2 || v2 >= v3 || one.Version() != v1 {
		t.Errorf("versions %d %d %d %d", empty.Version(), v1, v2, v3)
	}
	for i, c := range []struct {
		snap store.Snapshot
		a, b int64
	}{{empty, -1, -1}, {one, 1, 1}, {two, 2, -1}, {three, 2, 3}} {
		if a, b := s.read(c.snap, key("a")), s.read(c.snap, key("b")); a != c.a || b != c.b {
			t.Errorf("snapshot %d: a=%d b=%d, want %d %d", i, a, b, c.a, c.b)
		}
	}
	if _, v, _, _ := three.Get(t.Context(), key("a")); v != v2 {
		t.Errorf("a is of version %d, want %d", v, v2)
	}
	if empty.History() != three.History() {
		t.Error("the history changed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := e.Snapshot(ctx, v3+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("snapshot of the future: %v", err)
	}
}

func testRanges(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	var ops []store.Op
	for i := range 10 {
		ops = append(ops, put(i, key("k", i), int64(i)))
	}
	s.must(ops...)
	s.must(store.Op{Kind: store.OpDelete, Key: store.Key("k", 3)})
	old := s.snapshot(0)
	// Newer states of the same rows, which the old snapshot must pass over in both directions.
	for i := range 5 {
		s.must(put(0, key("k", 5), int64(50+i)), put(1, key("k", 3), 33), put(2, key("k", 55), 55))
	}
	for _, c := range []struct {
		o    store.RangeOptions
		want string
	}{
		{store.RangeOptions{}, "[0 1 2 4 5 6 7 8 9]"},
		{store.RangeOptions{Reverse: true}, "[9 8 7 6 5 4 2 1 0]"},
		{store.RangeOptions{Begin: key("k", 2), End: key("k", 6)}, "[2 4 5]"},
		{store.RangeOptions{Begin: key("k", 2), End: key("k", 6), Reverse: true}, "[5 4 2]"},
		{store.RangeOptions{Begin: key("k", 2), Limit: 2}, "[2 4]"},
		{store.RangeOptions{End: key("k", 6), Limit: 2, Reverse: true}, "[5 4]"},
		{store.RangeOptions{Begin: key("l")}, "[]"},
		{store.RangeOptions{End: key("k", 0)}, "[]"},
		{store.RangeOptions{Begin: key("k"), End: store.PrefixEnd(key("k")), Limit: 1}, "[0]"},
		{store.RangeOptions{Begin: key("k", 3), End: key("k", 4)}, "[]"},
	} {
		rows, err := old.Range(t.Context(), c.o)
		got := []int64{}
		for _, kv := range rows {
			got = append(got, kv.Value.Int)
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%+v: %v %v, want %s", c.o, got, err, c.want)
		}
	}
}

// testConflicts reads at a version, lets another commit write, and then commits.
func testConflicts(t *testing.T, e store.Engine) {
	point := func(k []byte) store.ReadRange { return store.ReadRange{Begin: k} }
	span := func(begin, end []byte) store.ReadRange { return store.ReadRange{Begin: begin, End: end} }
	deletion := store.Op{Kind: store.OpDelete, Key: store.Key("k", 5)}
	for name, c := range map[string]struct {
		read     store.ReadRange
		write    store.Op
		conflict bool
	}{
		"same row":           {point(key("k", 5)), put(0, key("k", 5), 9), true},
		"other row":          {point(key("k", 5)), put(0, key("k", 6), 9), false},
		"row deleted":        {point(key("k", 5)), deletion, true},
		"absent row appears": {point(key("k", 7)), put(0, key("k", 7), 9), true},
		"same content":       {point(key("k", 5)), put(0, key("k", 5), 5), true},
		"guard on the row":   {point(key("k", 5)), add(0, key("k", 5), 1, 0, 99), true},
		"row in range":       {span(key("k", 4), key("k", 6)), put(0, key("k", 5), 9), true},
		"phantom in range":   {span(key("k", 6), key("k", 8)), put(0, key("k", 7), 9), true},
		"deleted in range":   {span(key("k", 4), key("k", 6)), deletion, true},
		"at range's end":     {span(key("k", 4), key("k", 5)), put(0, key("k", 5), 9), false},
		"at range's begin":   {span(key("k", 5), key("k", 6)), put(0, key("k", 5), 9), true},
		"beside range":       {span(key("k", 2), key("k", 5)), put(0, key("k", 6), 9), false},
	} {
		s := newSuite(t, e)
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.next = freshSeq()
			for _, late := range []bool{false, true} {
				s.must(put(0, key("k", 5), 5), store.Op{Kind: store.OpDelete, Index: 1, Key: store.Key("k", 6)},
					store.Op{Kind: store.OpDelete, Index: 2, Key: store.Key("k", 7)})
				snap := s.snapshot(0)
				wrote := s.must(c.write)
				for i := 0; late && i < 50; i++ {
					s.must(put(0, key("other", i), 1))
				}
				commit := s.commit(put(0, key("mine"), 1))
				commit.ReadHistory, commit.ReadVersion, commit.Reads = snap.History(), snap.Version(), []store.ReadRange{point(key("never")), c.read}
				a := s.send(commit)
				if (a.Outcome == store.OutcomeConflict) != c.conflict {
					t.Fatalf("answer %+v, conflict %v expected", a, c.conflict)
				}
				if c.conflict && (a.Version != wrote || string(a.Key) != string(c.write.Key.Base)) {
					t.Errorf("conflict on %q @%d, want %q @%d", a.Key, a.Version, c.write.Key.Base, wrote)
				}
			}
		})
	}
}

var seqs struct {
	mu   sync.Mutex
	last uint64
}

// freshSeq returns a sequence number with room after it.
func freshSeq() uint64 {
	seqs.mu.Lock()
	defer seqs.mu.Unlock()
	seqs.last += 10000
	return seqs.last
}

func testLimits(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	value := func(n int) store.Op {
		return store.Op{Kind: store.OpPut, Key: store.Key("k"), Value: store.Bytes(make([]byte, n))}
	}
	many := func(n int, op func(int) store.Op) (ops []store.Op) {
		for i := range n {
			ops = append(ops, op(i))
		}
		return ops
	}
	five := many(5, func(i int) store.Op { op := value(store.MaxValueBytes); op.Index = uint32(i); return op })
	for name, c := range map[string]struct {
		ops    []store.Op
		change func(*store.Commit)
		reason store.Reason // 0: committed
	}{
		"longest key":    {ops: []store.Op{put(0, make([]byte, store.MaxKeyBytes), 1)}},
		"key":            {ops: []store.Op{put(0, make([]byte, store.MaxKeyBytes+1), 1)}, reason: store.ReasonTooLarge},
		"longest value":  {ops: []store.Op{value(store.MaxValueBytes)}},
		"value":          {ops: []store.Op{value(store.MaxValueBytes + 1)}, reason: store.ReasonTooLarge},
		"bytes":          {ops: five, reason: store.ReasonTooLarge},
		"most ops":       {ops: many(store.MaxOperations, func(i int) store.Op { return put(i, key(i), 1) })},
		"operations":     {ops: many(store.MaxOperations+1, func(i int) store.Op { return put(i, key(i), 1) }), reason: store.ReasonTooLarge},
		"most guards":    {ops: many(store.MaxGuards, func(i int) store.Op { return add(i, key("g"), 1, 0, 1<<40) })},
		"guards":         {ops: many(store.MaxGuards+1, func(i int) store.Op { return add(i, key("g"), 1, 0, 1<<40) }), reason: store.ReasonTooLarge},
		"reads":          {change: func(c *store.Commit) { c.Reads = make([]store.ReadRange, store.MaxReadRanges+1) }, reason: store.ReasonTooLarge},
		"deadline":       {change: func(c *store.Commit) { c.NotAfterMs = 1 }, reason: store.ReasonExpired},
		"no deadline":    {change: func(c *store.Commit) { c.NotAfterMs += time.Hour.Milliseconds() }, reason: store.ReasonInvalid},
		"no sequence":    {change: func(c *store.Commit) { c.ID.Seq = 0 }, reason: store.ReasonInvalid},
		"index":          {ops: []store.Op{put(1, key("a"), 1)}, reason: store.ReasonInvalid},
		"kind":           {ops: []store.Op{{Kind: 99}}, reason: store.ReasonInvalid},
		"short integer":  {ops: []store.Op{{Kind: store.OpPut, Key: store.Key("a"), Value: store.Template{Kind: store.KindInt64}}}, reason: store.ReasonInvalid},
		"no predicate":   {ops: []store.Op{{Kind: store.OpExpect, Key: store.Key("a")}}, reason: store.ReasonInvalid},
		"backward range": {ops: []store.Op{{Kind: store.OpDeleteRange, Key: store.Key("b"), End: key("a")}}, reason: store.ReasonInvalid},
		"own slot":       {ops: []store.Op{{Kind: store.OpPut, Key: store.Key("a"), Value: store.SlotValue(store.Slot{Kind: store.SlotInt})}}, reason: store.ReasonInvalid},
		"slot kind": {ops: []store.Op{add(0, key("g"), 1, 0, 1<<40), {Kind: store.OpPut, Index: 1, Key: store.Key("a"),
			Value: store.SlotValue(store.Slot{Kind: store.SlotElement})}}, reason: store.ReasonInvalid},
		"named by a slot only": {ops: []store.Op{{Kind: store.OpPut, Key: store.Key(store.Slot{Kind: store.SlotVersion}), Value: store.Int(1)}}, reason: store.ReasonInvalid},
		"empty pool":           {ops: []store.Op{{Kind: store.OpCreatePool, Key: store.Key("p")}}, reason: store.ReasonInvalid},
		"reserved twice":       {ops: []store.Op{{Kind: store.OpCreatePool, Key: store.Key("p"), To: 9, Reserved: []uint64{1, 1}}}, reason: store.ReasonInvalid},
	} {
		commit := s.commit(c.ops...)
		if c.change != nil {
			c.change(commit)
		}
		a := s.send(commit)
		if (a.Outcome == store.OutcomeCommitted) != (c.reason == 0) || a.Reason != c.reason {
			t.Errorf("%s: %v %v %s, want %v", name, a.Outcome, a.Reason, a.Detail, c.reason)
		}
	}
}

func testClosed(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	s.must(put(0, key("a"), 1))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := e.Commit(ctx, s.commit(put(0, key("a"), 1))); !errors.Is(err, store.ErrClosed) {
		t.Errorf("commit: %v", err)
	}
	if _, err := e.Snapshot(ctx, 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("snapshot: %v", err)
	}
	if _, err := e.Watch(ctx, 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch: %v", err)
	}
}

func testScripts(t *testing.T, open func() store.Engine) {
	files, err := fs.Glob(scripts, "scripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			text, err := scripts.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			e := open()
			defer e.Close()
			s := &script{t: t, db: store.New(e, store.Options{})}
			datadriven.RunTestFromString(t, string(text), func(t *testing.T, d *datadriven.TestData) string {
				return s.run(d.Cmd, d.Input)
			})
		})
	}
}
