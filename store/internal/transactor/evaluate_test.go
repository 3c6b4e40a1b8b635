package transactor

import (
	"math"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/pool"
)

// plain is a view of a map.
type plain map[string]Row

func (p plain) Get(key []byte) (Row, error) { return p[string(key)], nil }

func (p plain) Keys(begin, end []byte, limit int) (keys [][]byte, err error) {
	for key := range p {
		if key >= string(begin) && key < string(end) && len(keys) < limit {
			keys = append(keys, []byte(key))
		}
	}
	slices.SortFunc(keys, slices.Compare)
	return keys, nil
}

func (p plain) Changed(begin, _ []byte, after store.Version) ([]byte, store.Version, error) {
	if row := p[string(begin)]; row.Version > after {
		return begin, row.Version, nil
	}
	return nil, 0, nil
}

func (p plain) Floor() store.Version { return 0 }

func (p plain) apply(e Effect) {
	for _, w := range e.Writes {
		p[string(w.Key)] = Row{Value: w.Value, Version: e.Answer.Version, Found: !w.Deleted}
		if w.Deleted {
			delete(p, string(w.Key))
		}
	}
}

func input(c *store.Commit, next store.Version) Input {
	return Input{Commit: c, NowMs: 1000, Next: next, MaxBytes: store.MaxTransactionBytes}
}

func commit(seq uint64, ops ...store.Op) *store.Commit {
	for i := range ops {
		ops[i].Index = uint32(i)
	}
	return &store.Commit{ID: store.CommitID{Seq: seq, Attempt: 1}, NotAfterMs: 2000, Ops: ops}
}

// TestDamagedPool refuses a pool whose rows somebody else wrote, rather than believe them.
func TestDamagedPool(t *testing.T) {
	p := store.Prefix("p")
	take := store.Op{Kind: store.OpTake, Key: store.RawKey(p), To: math.MaxUint64}
	put := func(key []byte, v store.Template) store.Op {
		return store.Op{Kind: store.OpPut, Key: store.RawKey(key), Value: v}
	}
	for name, damage := range map[string]store.Op{
		"size of nothing": put(pool.SizeKey(p), store.Int(0)),
		"negative size":   put(pool.SizeKey(p), store.Int(-1)),
		"size of bytes":   put(pool.SizeKey(p), store.Bytes([]byte("x"))),
		"short page":      put(pool.PageKey(p, 0, 0), store.Bytes([]byte("x"))),
		"integer page":    put(pool.PageKey(p, 0, 0), store.Int(1)),
	} {
		create := store.Op{Kind: store.OpCreatePool, Key: store.RawKey(p), To: 9}
		e, err := Evaluate(plain{}, &Sessions{}, input(commit(1, create, damage, take), 1))
		if err != nil || e.Answer.Outcome != store.OutcomeRefused || e.Answer.Reason != store.ReasonInvalid {
			t.Errorf("%s: %+v, %v", name, e.Answer, err)
		}
	}
}

// TestLargePool takes and gives across pages and levels, against a set.
func TestLargePool(t *testing.T) {
	const size = pool.PageBits*pool.PageBits + 3
	p, view := store.Prefix("p"), plain{}
	var s Sessions
	next := store.Version(1)
	run := func(op store.Op) *store.Answer {
		op.Key = store.RawKey(p)
		e, err := Evaluate(view, &s, input(commit(uint64(next), op), next))
		if err != nil {
			t.Fatal(err)
		}
		view.apply(e)
		next++
		return e.Answer
	}
	if a := run(store.Op{Kind: store.OpCreatePool, To: size}); a.Outcome != store.OutcomeCommitted {
		t.Fatalf("create: %+v", a)
	}
	// The last page has three elements, whose page is alone in its summary page.
	for i := range uint64(3) {
		if a := run(store.Op{Kind: store.OpTake, From: size - 3, To: size}); a.Results[0].Element != size-3+i {
			t.Fatalf("take %d: %+v", i, a)
		}
	}
	if a := run(store.Op{Kind: store.OpTake, From: size - 3, To: size}); a.Outcome != store.OutcomeGuardFailed {
		t.Fatalf("take of nothing: %+v", a)
	}
	if a := run(store.Op{Kind: store.OpGive, Element: size - 2}); a.Outcome != store.OutcomeCommitted {
		t.Fatalf("give: %+v", a)
	}
	if a := run(store.Op{Kind: store.OpTake, From: size - 5, To: size}); a.Results[0].Element != size-5 {
		t.Fatalf("take after the last taken is beyond: %+v", a)
	}
	if a := run(store.Op{Kind: store.OpTake, From: size - 5, To: size}); a.Results[0].Element != size-4 {
		t.Fatalf("take goes on: %+v", a)
	}
	if a := run(store.Op{Kind: store.OpTake, From: size - 5, To: size}); a.Results[0].Element != size-2 {
		t.Fatalf("take over the gap: %+v", a)
	}
	if free := view[string(pool.FreeKey(p))].Value.Int; free != size-5 {
		t.Errorf("%d free, want %d", free, size-5)
	}
}

// FuzzEvaluate feeds the core with what a client could send: it answers or refuses, and never panics; what it refuses or
// fails writes nothing.
func FuzzEvaluate(f *testing.F) {
	slot := store.Slot{Kind: store.SlotInt}
	for _, c := range []*store.Commit{
		commit(1, store.Op{Kind: store.OpAdd, Key: store.Key("n"), Delta: 1, Max: 9}, store.Op{Kind: store.OpPut, Key: store.Key("k", slot), Value: store.SlotValue(slot)}),
		commit(1, store.Op{Kind: store.OpCreatePool, Key: store.Key("p"), To: 5000, Reserved: []uint64{1}}, store.Op{Kind: store.OpTake, Key: store.Key("p"), To: 9}),
		commit(2, store.Op{Kind: store.OpDeleteRange, Key: store.Key("a"), End: store.Prefix("b")}, store.Op{Kind: store.OpExpect, Key: store.Key("a"), Predicate: &store.Predicate{Kind: 1}}),
		commit(3, store.Op{Kind: store.OpFirstOf, Groups: []store.Group{{Index: 1, Label: []byte("x"), Ops: []store.Op{{Kind: store.OpMin, Index: 2, Key: store.Key("m")}}}}}),
	} {
		b, err := cbor.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c store.Commit
		if cbor.Unmarshal(b, &c) != nil {
			return
		}
		c.NotAfterMs = 2000
		view := plain{string(store.Prefix("n")): {Value: store.IntValue(3), Version: 1, Found: true},
			string(store.Prefix("a")): {Value: store.BytesValue([]byte("x")), Version: 2, Found: true}}
		var s Sessions
		e, err := Evaluate(view, &s, input(&c, 5))
		if err != nil || e.Answer == nil {
			t.Fatalf("%+v, %v", e, err)
		}
		if e.Answer.Outcome != store.OutcomeCommitted && len(e.Writes) > 0 {
			t.Fatalf("%+v writes %v", e.Answer, e.Writes)
		}
		if e.Record != nil {
			s.Keep(*e.Record)
			if again, _ := Evaluate(view, &s, input(&c, 6)); again.Answer != e.Answer && again.Answer.Outcome != store.OutcomeRefused {
				t.Fatalf("again %+v, first %+v", again.Answer, e.Answer)
			}
		}
	})
}

// TestSparseSessionIsBounded: acknowledging a gap frees no room.
func TestSparseSessionIsBounded(t *testing.T) {
	const first, gap = 10, 1 << 20
	var s Sessions
	keep := func(seq, acked uint64) *store.Answer {
		c := commit(seq, store.Op{Kind: store.OpPut, Key: store.Key("k"), Value: store.Int(1)})
		c.AckedBelow = acked
		if answer := s.room(c); answer != nil {
			return answer
		}
		s.Keep(Record{ID: c.ID, AckedBelow: acked, NotAfterMs: c.NotAfterMs, Answer: &store.Answer{Outcome: store.OutcomeCommitted}})
		return nil
	}
	if answer := keep(first, 0); answer != nil {
		t.Fatal(answer)
	}
	for i := range uint64(store.MaxSessionRecords) {
		if answer := keep(gap+i, first+1); answer != nil {
			t.Fatalf("record %d: %+v", i, answer)
		}
	}
	for i := range uint64(5) {
		if answer := keep(2*gap+i, first+2+i); answer == nil || answer.Reason != store.ReasonOverloaded {
			t.Errorf("a commit that acknowledges only a gap, in a full session: %+v", answer)
		}
	}
	if answer := keep(2*gap, gap+1); answer != nil {
		t.Errorf("a commit that frees room: %+v", answer)
	}
}
