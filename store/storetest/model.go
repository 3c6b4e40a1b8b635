package storetest

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nimbrel/nimbrel/store"
)

// model is the contract said again as simply as possible: whole copies of small maps. It shares no code with the
// engines, so that a mistake in theirs shows.
type model struct {
	version store.Version
	rows    map[string]modelRow
	pool    []bool                         // free elements; nil without a pool
	last    int                            // taken last by Take; -1 none
	changed map[string]store.Version       // last write of each row, deletions included
	answers map[store.CommitID]modelAnswer // of all commits
}

type modelRow struct {
	n       int64
	version store.Version
}

type modelAnswer struct {
	outcome store.Outcome
	version store.Version
	results map[uint32]store.SlotResult
	failed  uint32
}

const modelPoolSize = 12

var modelPool = key("pool")

// newModel returns an empty model at a version.
func newModel(v store.Version) *model {
	return &model{version: v, rows: map[string]modelRow{}, last: -1, changed: map[string]store.Version{},
		answers: map[store.CommitID]modelAnswer{}}
}

// modelState is what a group may roll back.
type modelState struct {
	rows    map[string]modelRow
	pool    []bool
	last    int
	results map[uint32]store.SlotResult
}

func (s modelState) clone() modelState {
	return modelState{maps.Clone(s.rows), slices.Clone(s.pool), s.last, maps.Clone(s.results)}
}

// commit says what the engine must answer.
func (m *model) commit(c *store.Commit) modelAnswer {
	if known, ok := m.answers[c.ID]; ok {
		return known
	}
	for _, r := range c.Reads {
		for k, v := range m.changed {
			inside := (r.End == nil && k == string(r.Begin)) || (k >= string(r.Begin) && k < string(r.End))
			if inside && v > c.ReadVersion {
				return modelAnswer{outcome: store.OutcomeConflict}
			}
		}
	}
	s := modelState{m.rows, m.pool, m.last, map[uint32]store.SlotResult{}}.clone()
	if failed := m.all(&s, c.Ops); failed != nil {
		a := modelAnswer{outcome: store.OutcomeGuardFailed, version: m.version, failed: *failed}
		m.answers[c.ID] = a
		return a
	}
	m.version++
	for k, r := range s.rows {
		if before, ok := m.rows[k]; !ok || before != r {
			m.changed[k] = m.version
		}
	}
	for k := range m.rows {
		if _, ok := s.rows[k]; !ok {
			m.changed[k] = m.version
		}
	}
	m.rows, m.pool, m.last = s.rows, s.pool, s.last
	a := modelAnswer{outcome: store.OutcomeCommitted, version: m.version, results: s.results}
	m.answers[c.ID] = a
	return a
}

// all runs operations; it returns the index of the one that failed.
func (m *model) all(s *modelState, ops []store.Op) *uint32 {
	for _, op := range ops {
		if !m.one(s, op) {
			return &op.Index
		}
	}
	return nil
}

func (m *model) one(s *modelState, op store.Op) bool {
	k := string(op.Key.Base)
	row, found := s.rows[k]
	set := func(n int64) bool {
		s.rows[k] = modelRow{n, m.version + 1}
		s.results[op.Index] = store.SlotResult{Ran: true, Int: n}
		return true
	}
	switch op.Kind {
	case store.OpPut:
		s.rows[k] = modelRow{m.value(s, op.Value), m.version + 1}
		return true
	case store.OpDelete:
		delete(s.rows, k)
		return true
	case store.OpDeleteRange:
		maps.DeleteFunc(s.rows, func(other string, _ modelRow) bool { return other >= k && other < string(op.End) })
		return true
	case store.OpAdd:
		return row.n+op.Delta >= op.Min && row.n+op.Delta <= op.Max && set(row.n+op.Delta)
	case store.OpMin:
		if found {
			return set(min(row.n, op.Delta))
		}
		return set(op.Delta)
	case store.OpMax:
		if found {
			return set(max(row.n, op.Delta))
		}
		return set(op.Delta)
	case store.OpInsertIfAbsent:
		if found {
			return false
		}
		s.rows[k] = modelRow{m.value(s, op.Value), m.version + 1}
		return true
	case store.OpExpect:
		switch op.Predicate.Kind {
		case store.PredicateExists:
			return found
		case store.PredicateAbsent:
			return !found
		case store.PredicateAtVersion:
			return found && row.version == op.Predicate.Version
		default:
			return found && row.n >= op.Predicate.N
		}
	}
	return m.poolOrGroup(s, op)
}

func (m *model) poolOrGroup(s *modelState, op store.Op) bool {
	switch op.Kind {
	case store.OpCreatePool:
		if s.pool != nil {
			return false
		}
		s.pool = slices.Repeat([]bool{true}, modelPoolSize)
		return true
	case store.OpTake:
		for i := range s.pool {
			e := (s.last + 1 + i) % len(s.pool)
			if s.pool[e] {
				s.pool[e], s.last = false, e
				s.results[op.Index] = store.SlotResult{Ran: true, Element: uint64(e)}
				return true
			}
		}
		return false
	case store.OpTakeExact, store.OpGive:
		free := op.Kind == store.OpGive
		if s.pool == nil || s.pool[op.Element] == free {
			return false
		}
		s.pool[op.Element] = free
		return true
	}
	ran := 0
	for _, g := range op.Groups {
		trial := s.clone()
		if m.all(&trial, g.Ops) != nil {
			continue
		}
		*s = trial
		ran++
		s.results[g.Index] = store.SlotResult{Ran: true}
		if op.Kind == store.OpFirstOf {
			s.results[op.Index] = store.SlotResult{Ran: true, Label: g.Label}
			return true
		}
	}
	return op.Kind == store.OpGroup || (op.Kind == store.OpAtLeast && ran >= int(op.N))
}

func (m *model) value(s *modelState, t store.Template) int64 {
	if !t.HasSlots() {
		return int64(t.Base[7])
	}
	slot := t.Splices[0].Slot
	switch slot.Kind {
	case store.SlotVersion:
		return int64(m.version + 1)
	case store.SlotElement:
		return int64(s.results[slot.Op].Element)
	}
	return s.results[slot.Op].Int
}

// testModel runs random histories on an engine and on the model. The rows of each history have a prefix of their own, and
// its model starts at the engine's version.
func testModel(t *testing.T, e store.Engine) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		h := &history{s: newSuite(t, e), run: run}
		h.base = h.latest(rt)
		h.m = newModel(h.base)
		h.session = store.SessionID{2, byte(run), byte(run >> 8)}
		rt.Repeat(map[string]func(*rapid.T){"commit": h.commit, "resend": h.resend, "read": h.read})
	})
}

type history struct {
	s       *suite
	m       *model
	run     int
	base    store.Version // the engine's version when the history began
	engine  store.HistoryID
	session store.SessionID
	sent    []*store.Commit
}

func (h *history) latest(rt *rapid.T) store.Version {
	snap, err := h.s.e.Snapshot(rt.Context(), 0)
	if err != nil {
		rt.Fatal(err)
	}
	defer snap.Release()
	h.engine = snap.History()
	return snap.Version()
}

// commit draws a commit that read at some version of this history.
func (h *history) commit(rt *rapid.T) {
	g := &generator{t: rt, base: h.base}
	c := &store.Commit{
		ID:         store.CommitID{Session: h.session, Seq: uint64(len(h.sent) + 1), Attempt: 1},
		NotAfterMs: time.Now().Add(time.Minute).UnixMilli(),
		Ops:        g.ops(0),
	}
	for range rapid.IntRange(0, 2).Draw(rt, "reads") {
		r := store.ReadRange{Begin: g.key()}
		if rapid.Bool().Draw(rt, "range") {
			r.End = append(g.key(), 0xFF)
		}
		c.Reads = append(c.Reads, r)
	}
	back := rapid.IntRange(0, min(2, int(h.m.version-h.base))).Draw(rt, "age")
	c.ReadVersion = h.m.version - store.Version(back)
	h.sent = append(h.sent, c)
	h.check(rt, c)
}

func (h *history) resend(rt *rapid.T) {
	if len(h.sent) > 0 {
		h.check(rt, rapid.SampledFrom(h.sent).Draw(rt, "commit"))
	}
}

func (h *history) check(rt *rapid.T, c *store.Commit) {
	want := h.m.commit(c)
	got, err := h.s.e.Commit(rt.Context(), h.placed(c))
	if err != nil {
		rt.Fatal(err)
	}
	if got.Outcome != want.outcome {
		rt.Fatalf("commit %+v\n got %+v, failure %+v\nwant %+v", c, got, got.Failure, want)
	}
	switch want.outcome {
	case store.OutcomeGuardFailed:
		if got.Failure.Op != want.failed || got.Version != want.version {
			rt.Fatalf("failed %+v, want operation %d at %d", got.Failure, want.failed, want.version)
		}
	case store.OutcomeCommitted:
		h.checkResults(rt, got, want)
	}
}

func (h *history) checkResults(rt *rapid.T, got *store.Answer, want modelAnswer) {
	if got.Version != want.version {
		rt.Fatalf("version %d, want %d", got.Version, want.version)
	}
	for i, w := range want.results {
		g := got.Results[i]
		if g.Int != w.Int || g.Element != w.Element || string(g.Label) != string(w.Label) || !g.Ran {
			rt.Fatalf("result %d is %+v, want %+v", i, g, w)
		}
	}
}

// read compares the whole state, in both directions.
func (h *history) read(rt *rapid.T) {
	snap, err := h.s.e.Snapshot(rt.Context(), 0)
	if err != nil {
		rt.Fatal(err)
	}
	defer snap.Release()
	want := h.m.rows
	prefix := key("model", h.run)
	begin := append(slices.Clone(prefix), key("k")...)
	for _, reverse := range []bool{false, true} {
		rows, err := snap.Range(rt.Context(), store.RangeOptions{Begin: begin, End: store.PrefixEnd(begin), Reverse: reverse})
		if err != nil || len(rows) != len(want) {
			rt.Fatalf("%d rows, want %d, %v", len(rows), len(want), err)
		}
		for _, kv := range rows {
			w := want[string(kv.Key[len(prefix):])]
			if kv.Value.Int != w.n || kv.Version != w.version {
				rt.Fatalf("row %x = %d @%d, want %+v", kv.Key, kv.Value.Int, kv.Version, w)
			}
		}
	}
}

// placed moves a commit's keys under the history's prefix.
func (h *history) placed(c *store.Commit) *store.Commit {
	p := *c
	p.ReadHistory = h.engine
	p.Reads = slices.Clone(c.Reads)
	for i, r := range p.Reads {
		p.Reads[i] = store.ReadRange{Begin: h.place(r.Begin), End: h.place(r.End)}
	}
	p.Ops = h.placedOps(c.Ops)
	return &p
}

func (h *history) place(k []byte) []byte {
	if k == nil {
		return nil
	}
	return append(key("model", h.run), k...)
}

func (h *history) placedOps(ops []store.Op) []store.Op {
	ops = slices.Clone(ops)
	for i := range ops {
		op := &ops[i]
		op.Key.Base, op.End = h.place(op.Key.Base), h.place(op.End)
		op.Groups = slices.Clone(op.Groups)
		for j := range op.Groups {
			op.Groups[j].Ops = h.placedOps(op.Groups[j].Ops)
		}
	}
	return ops
}
