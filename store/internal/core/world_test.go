package core

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// scenario is a small world and how much may go wrong in it.
type scenario struct {
	name    string
	scripts [][]kind
	// Late copies delivered, suffixes of the log lost, crashes, cancels and jumps of time, at most.
	copies, losses, crashes, cancels, ticks int
	// late: what a crash left in flight may land in the log of the next term. lazy: the base shows durable batches only.
	late, lazy bool
	recentRows int
	lifetimes  []int64 // ms, of each client's requests in order; default 1000
	atLeast    int     // distinct states
}

// jumpMs is how far one tick moves the time.
const jumpMs = 100

// sent is a message to the core: a commit, or its cancel.
type sent struct {
	who    name
	kind   kind
	read   int64
	commit *store.Commit
	digest [16]byte
}

type message struct {
	*sent
	fresh bool // never delivered
}

// flight is a batch with whose commits are in it; node is nil for an empty one.
type flight struct {
	batch  *Batch
	inputs []*sent
	node   *node
}

type client struct {
	at        int8 // request of the script
	waits     bool
	cancelled bool
	unknown   bool // an earlier request's end was not learned: nothing more is acknowledged
	current   *sent
	answer    *store.Answer // released and not yet received
	told      []told        // by request: the first definite answer that was released
}

type told struct {
	outcome store.Outcome
	reason  store.Reason
	attempt uint32
	version store.Version
}

// world is one state of everything. A step works on a copy; cores, outboxes and slices are copied when they change.
type world struct {
	s                                       *scenario
	core                                    *Core
	outbox                                  *Outbox
	durable                                 *node // the log
	loaded                                  *node // what the core was loaded from
	flights                                 []flight
	late                                    []*Batch // of an earlier term, in order
	stale                                   bool     // the log has moved on without the core
	clients                                 []client
	net                                     []message
	queue                                   []*sent
	nowMs                                   int64
	acked                                   store.Version // newest version of any released answer
	copies, losses, crashes, cancels, ticks int
	// sent is every message by id: the same in all worlds of a search.
	sent map[store.CommitID]*sent
}

func newWorld(s *scenario) *world {
	w := &world{s: s, durable: genesis(), copies: s.copies, losses: s.losses, crashes: s.crashes, cancels: s.cancels, ticks: s.ticks,
		clients: make([]client, len(s.scripts)), sent: map[store.CommitID]*sent{}}
	for i := range w.clients {
		w.clients[i].told = make([]told, len(s.scripts[i]))
	}
	w.start(1)
	return w
}

// start starts a core on what is durable.
func (w *world) start(term uint64) {
	c, err := New(shown{w.durable}, Options{Term: term, MaxBytes: 1 << 20, RecentRows: w.s.recentRows, ExpireEveryMs: -1}, w.durable.mark)
	if err != nil {
		panic(err)
	}
	w.core, w.outbox, w.loaded = c, NewOutbox(w.durable.mark), w.durable
	w.flights, w.queue, w.stale = nil, nil, false
}

func (w *world) clone() *world {
	out := *w
	out.clients = slices.Clone(w.clients)
	out.net = slices.Clone(w.net)
	out.queue = slices.Clip(w.queue)
	out.flights = slices.Clip(w.flights)
	return &out
}

// own makes core and outbox this world's own.
func (w *world) own() {
	c := *w.core
	c.sessions = w.core.sessions.Clone()
	c.recent.rows = maps.Clone(w.core.recent.rows)
	c.recent.commits = slices.Clone(w.core.recent.commits)
	o := *w.outbox
	o.pending = slices.Clone(o.pending)
	w.core, w.outbox = &c, &o
}

// begin sends a client's next request, or the current one again with fresh reads.
func (w *world) begin(c int) {
	cl := &w.clients[c]
	attempt := uint32(1)
	if cl.waits {
		attempt = cl.current.commit.ID.Attempt + 1
	}
	k := w.s.scripts[c][cl.at]
	m := &sent{who: name{int8(c), cl.at}, kind: k}
	v := w.outbox.Version()
	m.read = w.durable.models[v].read(k)
	lifetime := int64(1000)
	if len(w.s.lifetimes) > 0 {
		lifetime = w.s.lifetimes[cl.at]
	}
	commit := &store.Commit{ID: store.CommitID{Session: store.SessionID{byte(c)}, Seq: uint64(cl.at + 1), Attempt: attempt},
		NotAfterMs: w.nowMs + lifetime, AckedBelow: uint64(cl.at + 1)}
	if cl.unknown {
		commit.AckedBelow = 0
	}
	commit.Ops, commit.Reads = k.operations(m.read)
	if len(commit.Reads) > 0 {
		commit.ReadVersion = v
	}
	m.commit = commit
	cl.current, cl.waits, cl.cancelled, cl.answer = m, true, false, nil
	w.send(m)
}

func (w *world) cancel(c int) {
	cl := &w.clients[c]
	m := *cl.current
	commit := *m.commit
	commit.Cancel, commit.Ops, commit.Reads, commit.ReadVersion = true, nil, nil, 0
	m.commit = &commit
	cl.cancelled = true
	w.cancels--
	w.send(&m)
}

func (w *world) send(m *sent) {
	digest, err := transactor.Digest(m.commit)
	if err != nil {
		panic(err)
	}
	m.digest = digest
	w.net = append(w.net, message{m, true})
	slices.SortFunc(w.net, func(a, b message) int { return slices.Compare(a.order(), b.order()) })
}

func (m *sent) order() []int64 {
	cancel := int64(0)
	if m.commit.Cancel {
		cancel = 1
	}
	return []int64{int64(m.who.client), int64(m.who.request), int64(m.commit.ID.Attempt), cancel, int64(m.commit.ReadVersion), m.commit.NotAfterMs}
}

func (w *world) deliver(i int) {
	if !w.net[i].fresh {
		w.copies--
	}
	w.net[i].fresh = false
	w.queue = append(slices.Clip(w.queue), w.net[i].sent)
}

// appendBatch evaluates the queue.
func (w *world) appendBatch() error {
	w.own()
	inputs := make([]Input, len(w.queue))
	for i, m := range w.queue {
		inputs[i] = Input{Commit: m.commit, Digest: m.digest}
	}
	w.core.Tick(w.nowMs)
	b, err := w.core.Append(inputs)
	if err != nil {
		return err
	}
	f := flight{batch: b, inputs: w.queue}
	w.queue = nil
	if !b.Empty() {
		if f.node, err = w.endAt(b.Base).apply(b, bySender(f.inputs)); err != nil {
			return err
		}
		if !w.s.lazy {
			w.core.base = shown{f.node}
			w.core.Shown(b.Version)
		}
	}
	w.flights = append(slices.Clip(w.flights), f)
	return w.release(w.outbox.Add(b))
}

func bySender(inputs []*sent) map[store.CommitID]*sent {
	out := map[store.CommitID]*sent{}
	for _, m := range inputs {
		if out[m.commit.ID] == nil || !m.commit.Cancel {
			out[m.commit.ID] = m
		}
	}
	return out
}

// endAt is the log as the core sees it: up to a batch in flight, or of the durable log, which may be longer by now.
func (w *world) endAt(at Position) *node {
	for _, f := range w.flights {
		if f.node != nil && f.batch.At == at {
			return f.node
		}
	}
	n := w.durable
	for n.mark.At != at {
		n = n.parent
	}
	return n
}

// grow appends a batch to the durable log when it follows, and checks what was promised.
func (w *world) grow(b *Batch, known *node, inputs map[store.CommitID]*sent) (bool, error) {
	if !b.Follows(w.durable.mark.At) {
		return false, nil
	}
	if known == nil || known.parent != w.durable {
		n, err := w.durable.apply(b, inputs)
		if err != nil {
			return true, err
		}
		known = n
	}
	w.durable = known
	for _, s := range b.Steps {
		who := nameOf(s.Record.ID)
		t := w.clients[who.client].told[who.request]
		contradicts := t.outcome != 0 && t.outcome != store.OutcomeCommitted && (t.attempt == s.Record.ID.Attempt || t.outcome != store.OutcomeConflict)
		if s.Version != 0 && contradicts {
			return true, fmt.Errorf("request %v was told %v, reason %v, and is version %d of the log", who, t.outcome, t.reason, s.Version)
		}
	}
	return true, nil
}

// sync makes the first flight durable, or finds that its base is gone.
func (w *world) sync() error {
	w.own()
	f := w.firstFlight()
	if f != nil {
		applied, err := w.grow(f.batch, f.node, bySender(f.inputs))
		if err != nil {
			return err
		}
		if applied {
			if w.s.lazy {
				w.core.base = shown{w.durable}
				w.core.Shown(f.batch.Version)
			}
			return w.release(w.outbox.Durable(f.batch.At))
		}
		w.outbox.Lost(f.batch.At)
	}
	return w.reload()
}

func (w *world) firstFlight() *flight {
	for i := range w.flights {
		if w.flights[i].node != nil {
			return &w.flights[i]
		}
	}
	return nil
}

// reload tells the core that the log moved on without it.
func (w *world) reload() error {
	w.flights, w.stale, w.loaded = nil, false, w.durable
	w.core.base = shown{w.durable}
	w.outbox = NewOutbox(w.durable.mark)
	return w.core.Lost(w.durable.mark)
}

// lose drops the flights from one on.
func (w *world) lose(i int) error {
	w.own()
	w.losses--
	lost := w.outbox.Lost(w.flights[i].batch.At)
	if len(lost) != len(w.flights)-i {
		return fmt.Errorf("%d batches are lost, want %d", len(lost), len(w.flights)-i)
	}
	w.flights = w.flights[:i:i]
	end := w.durable
	for _, f := range w.flights {
		if f.node != nil {
			end = f.node
		}
	}
	w.loaded = end
	w.core.base = shown{end}
	if w.s.lazy {
		// A lazy base does not show what is in flight: only a loss of everything can be taken back to it.
		w.core.base = shown{w.durable}
	}
	return w.core.Lost(end.mark)
}

// crash ends the core. The first flights reach the log all the same; the rest is lost, or late.
func (w *world) crash(reach int, late bool) error {
	w.crashes--
	term := w.core.options.Term + 1
	var rest []*Batch
	for _, f := range w.flights {
		if f.node == nil {
			continue
		}
		if reach > 0 {
			reach--
			if _, err := w.grow(f.batch, f.node, nil); err != nil {
				return err
			}
			continue
		}
		rest = append(rest, f.batch)
	}
	if late {
		w.late = rest
		for _, f := range w.flights {
			for id, m := range bySender(f.inputs) {
				w.remember(id, m)
			}
		}
	}
	w.start(term)
	return nil
}

func (w *world) remember(id store.CommitID, m *sent) {
	w.sent = maps.Clone(w.sent)
	w.sent[id] = m
}

// land lets the next late batch reach the log.
func (w *world) land() error {
	b := w.late[0]
	w.late = w.late[1:]
	applied, err := w.grow(b, nil, w.sent)
	w.stale = w.stale || applied
	return err
}

// release checks the answers that leave, and hands them to those who wait.
func (w *world) release(released []Released) error {
	for _, r := range released {
		i := slices.IndexFunc(w.flights, func(f flight) bool { return f.batch == r.Batch })
		if i < 0 {
			return fmt.Errorf("batch %v is released twice, or was lost", r.Batch.At)
		}
		f := w.flights[i]
		if !partial(r.Answers) {
			w.flights = slices.Delete(slices.Clone(w.flights), i, i+1)
		}
		for j, a := range r.Answers {
			if a == nil { // a mutant's early answers are some of a batch
				continue
			}
			if err := w.tell(f.inputs[j], a); err != nil {
				return fmt.Errorf("answer %v %v version %d to %v (attempt %d, cancel %v): %w", a.Outcome, a.Reason, a.Version,
					f.inputs[j].who, f.inputs[j].commit.ID.Attempt, f.inputs[j].commit.Cancel, err)
			}
		}
	}
	return nil
}

func partial(answers []*store.Answer) bool { return slices.Contains(answers, nil) }

func (w *world) tell(m *sent, a *store.Answer) error {
	if err := w.holds(m, a); err != nil {
		return err
	}
	cl := &w.clients[m.who.client]
	cl.told = slices.Clone(cl.told)
	t := &cl.told[m.who.request]
	if t.outcome == store.OutcomeCommitted && a.Outcome != store.OutcomeRefused && (a.Outcome != t.outcome || a.Version != t.version) {
		return fmt.Errorf("was told committed at %d before", t.version)
	}
	if a.Outcome != store.OutcomeRefused || a.Reason == store.ReasonInvalid {
		if t.outcome == 0 || t.outcome == store.OutcomeConflict {
			*t = told{a.Outcome, a.Reason, m.commit.ID.Attempt, a.Version}
		}
		w.acked = max(w.acked, a.Version)
	}
	if cl.waits && cl.at == m.who.request && cl.answer == nil && m.commit.ID.Attempt == cl.current.commit.ID.Attempt {
		cl.answer = a
	}
	return nil
}

// holds checks an answer against what is durable.
func (w *world) holds(m *sent, a *store.Answer) error {
	if a.Outcome != store.OutcomeRefused && a.Version > w.durable.mark.Version {
		return fmt.Errorf("the log is durable up to version %d", w.durable.mark.Version)
	}
	d := w.durable.decided[m.who]
	switch a.Outcome {
	case store.OutcomeCommitted, store.OutcomeCancelled, store.OutcomeGuardFailed:
		if d.outcome != a.Outcome || d.version != a.Version {
			return fmt.Errorf("the log has outcome %v, version %d", d.outcome, d.version)
		}
		if a.Outcome != store.OutcomeGuardFailed {
			return nil
		}
		if _, _, ok := w.durable.models[a.Version].does(m.kind, m.read); ok {
			return fmt.Errorf("the guard holds at that version: %+v", w.durable.models[a.Version])
		}
	case store.OutcomeConflict:
		list := w.durable.rows[string(a.Key)]
		there := slices.ContainsFunc(list, func(r rowVersion) bool { return r.version == a.Version })
		if !there || a.Version <= m.commit.ReadVersion {
			return fmt.Errorf("row %q was not written then, or before the read", a.Key)
		}
	case store.OutcomeRefused:
		return w.refusalHolds(m, a, d)
	}
	return nil
}

func (w *world) refusalHolds(m *sent, a *store.Answer, d verdict) error {
	cl := w.clients[m.who.client]
	ok := false
	switch a.Reason {
	case store.ReasonExpired:
		ok = w.nowMs > m.commit.NotAfterMs || (cl.at > m.who.request && !cl.unknown)
	case store.ReasonCancelled:
		ok = d.outcome == store.OutcomeCancelled
	case store.ReasonMismatch:
		ok = d.outcome != 0 && d.attempt != m.commit.ID.Attempt
	case store.ReasonInvalid:
		ok = m.kind == addB && d.outcome == store.OutcomeRefused
	}
	if !ok {
		return fmt.Errorf("there is no reason to refuse: %s", a.Detail)
	}
	return nil
}

// receive lets a client learn its answer.
func (w *world) receive(c int) {
	cl := &w.clients[c]
	a := cl.answer
	if a.Outcome == store.OutcomeConflict && cl.current.commit.ID.Attempt < 2 {
		w.begin(c)
		return
	}
	cl.unknown = cl.unknown || (a.Outcome == store.OutcomeRefused && a.Reason != store.ReasonInvalid && a.Reason != store.ReasonCancelled)
	cl.at++
	cl.waits, cl.answer, cl.current = false, nil, nil
}

// check is what holds in every state.
func (w *world) check() error {
	v := w.outbox.Version()
	if v < w.acked && !w.stale {
		return fmt.Errorf("readers see version %d, %d was answered", v, w.acked)
	}
	if v > w.durable.mark.Version {
		return fmt.Errorf("readers see version %d, the log is durable up to %d", v, w.durable.mark.Version)
	}
	return nil
}

// hash names the state: equal worlds have the same, whatever order led there.
func (w *world) hash(b []byte) [16]byte {
	u := func(v ...int64) {
		for _, v := range v {
			b = binary.AppendVarint(b, v)
		}
	}
	id := func(m *sent) { u(m.order()...); u(m.read, int64(m.commit.AckedBelow)) }
	answer := func(a *store.Answer) { u(int64(a.Outcome), int64(a.Reason), int64(a.Version)) }
	for i := range w.clients {
		c := &w.clients[i]
		u(int64(c.at), bit(c.waits), bit(c.cancelled), bit(c.unknown), bit(c.answer != nil))
		if c.current != nil {
			id(c.current)
		}
		if c.answer != nil {
			answer(c.answer)
		}
		for _, t := range c.told {
			u(int64(t.outcome), int64(t.reason), int64(t.attempt), int64(t.version))
		}
	}
	u(-1, int64(len(w.net)))
	for _, m := range w.net {
		id(m.sent)
		u(bit(m.fresh))
	}
	u(-2, int64(len(w.queue)))
	for _, m := range w.queue {
		id(m)
	}
	u(-3, int64(len(w.flights)))
	for _, f := range w.flights {
		if f.node != nil {
			b = append(b, f.node.digest[:]...)
		}
		for i, m := range f.inputs {
			id(m)
			answer(f.batch.answers[i])
		}
	}
	u(-4, int64(len(w.late)))
	for _, l := range w.late {
		u(bit(l.Follows(w.durable.mark.At)), int64(l.Version))
		for _, s := range l.Steps {
			u(int64(nameOf(s.Record.ID).client), int64(s.Record.ID.Seq), int64(s.Version))
		}
	}
	b = append(append(b, w.durable.digest[:]...), w.loaded.digest[:]...)
	u(bit(w.stale), w.nowMs, int64(w.acked), int64(w.core.last.Version), w.core.last.TimeMs, w.core.expiredMs, int64(w.outbox.Version()),
		int64(w.copies), int64(w.losses), int64(w.crashes), int64(w.cancels), int64(w.ticks))
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

func bit(ok bool) int64 {
	if ok {
		return 1
	}
	return 0
}
