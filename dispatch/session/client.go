package session

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/internal/assert"
)

// ClientOptions say who the target is.
type ClientOptions struct {
	Target      string
	Cell        uint32
	BootID      string
	Incarnation uint64 // random and not zero, of this process
}

// Meta is what a target remembers beside its sections. It is durable before it is used.
type Meta struct {
	History string   `cbor:"1,keyasint,omitempty"`
	Epoch   uint64   `cbor:"2,keyasint,omitempty"`
	Docs    []string `cbor:"3,keyasint,omitempty"` // subscribed, the own document apart
	Told    bool     `cbor:"4,keyasint,omitempty"` // Docs was told by a server
}

// Output is what the owner of a Client has to do, in the order of the fields.
type Output struct {
	StandDown uint64               // not 0: the epoch was old; fence before anything else
	Meta      *Meta                // make durable
	Stage     []*Sink              // make durable each, then call Commit, or Abort
	Drop      []dispatch.SectionID // forget on disk
	Changed   bool                 // what is shown has changed
	Send      []Message
	Close     error // end the session; a *dispatch.RetryError says when to come back
}

func (o *Output) merge(p Output) {
	o.Stage = append(o.Stage, p.Stage...)
	o.Drop = append(o.Drop, p.Drop...)
	o.Send = append(o.Send, p.Send...)
	o.Changed = o.Changed || p.Changed
	if p.Meta != nil {
		o.Meta = p.Meta
	}
}

// Client is a target's side. It lives as long as the process: sessions come and go.
type Client struct {
	o       ClientOptions
	meta    Meta
	open    bool
	info    []byte
	sinks   map[dispatch.SectionID]*Sink
	staged  map[dispatch.SectionID]*Sink
	parts   map[dispatch.SectionID]*assembly
	applied map[dispatch.SectionID]*Ack
	actual  map[string]*reported
}

// reported is one section of the target's actual state.
type reported struct {
	src      *Source
	held     dispatch.Seq // at the server
	flying   bool
	flyFull  bool
	inflight dispatch.Seq
	full     bool
	paused   bool // refused in full: nothing is sent before the next heartbeat
	waiting  bool // the owner has not yet reported all there is
}

// NewClient begins with what was found on disk.
func NewClient(o ClientOptions, meta Meta, sinks []*Sink) *Client {
	assert.That(o.Incarnation != 0, "incarnation is zero")
	c := &Client{o: o, meta: meta, sinks: map[dispatch.SectionID]*Sink{}, staged: map[dispatch.SectionID]*Sink{},
		parts: map[dispatch.SectionID]*assembly{}, applied: map[dispatch.SectionID]*Ack{}, actual: map[string]*reported{}}
	for _, k := range sinks {
		c.sinks[k.ID] = k
	}
	return c
}

// Meta is what the client remembers now.
func (c *Client) Meta() Meta { return c.meta }

// Sections visits every section held. The sinks are not to be modified; they never change.
func (c *Client) Sections() map[dispatch.SectionID]*Sink { return maps.Clone(c.sinks) }

// Start tells what became showable before any session, as after a restart.
func (c *Client) Start() Output { return c.settle() }

// Connect begins a session: what an earlier one left half done is forgotten, and the Hello goes out.
func (c *Client) Connect(info []byte) Output {
	c.open, c.info = false, info
	clear(c.parts)
	return Output{Send: []Message{c.hello()}}
}

func (c *Client) hello() *Hello {
	return &Hello{Target: c.o.Target, Cell: c.o.Cell, History: c.meta.History, Epoch: c.meta.Epoch, BootID: c.o.BootID, Incarnation: c.o.Incarnation,
		ProtocolMin: dispatch.ProtocolMin, ProtocolMax: dispatch.ProtocolMax, Desired: c.desired(), Actual: c.reports(), Info: c.info}
}

// desired lists the sections whose sequence counts under the present history.
func (c *Client) desired() []dispatch.Position {
	var ps []dispatch.Position
	for id, k := range c.sinks {
		if k.History == c.meta.History && k.Seq > 0 {
			ps = append(ps, dispatch.Position{ID: id, Seq: k.Seq, Sum: k.Recount()})
		}
	}
	return ps
}

func (c *Client) reports() []dispatch.Position {
	var ps []dispatch.Position
	for name, r := range c.actual {
		if !r.waiting {
			ps = append(ps, dispatch.Position{ID: c.own(name), Seq: r.src.Seq(), Sum: r.src.Sum()})
		}
	}
	return ps
}

func (c *Client) own(section string) dispatch.SectionID {
	return dispatch.SectionID{Doc: c.o.Target, Section: section}
}

// Receive takes a message of the server.
func (c *Client) Receive(m Message) Output {
	if w, ok := m.(*Welcome); ok {
		return c.welcome(w)
	}
	if !c.open {
		return Output{Close: fmt.Errorf("session: %T before welcome", m)}
	}
	switch m := m.(type) {
	case *Subscribe:
		return c.subscribe(m)
	case *Delta:
		return c.delta(m)
	case *ActualAck:
		return c.actualAck(m)
	case *HeartbeatAck:
		return Output{}
	}
	return Output{Close: fmt.Errorf("session: unexpected %T", m)}
}

func (c *Client) welcome(w *Welcome) Output {
	if c.open {
		return Output{Close: fmt.Errorf("session: second welcome")}
	}
	switch w.Verdict {
	case Resume:
		return c.resume(w)
	case StandDown:
		if w.Epoch <= c.meta.Epoch {
			return Output{Close: fmt.Errorf("session: told to stand down for epoch %d at epoch %d", w.Epoch, c.meta.Epoch)}
		}
		out := c.adopt(c.meta.History, w.Epoch)
		out.StandDown = w.Epoch
		out.Send = []Message{c.hello()}
		return out
	case OtherHistory:
		if w.History == "" || w.History == c.meta.History {
			return Output{Close: fmt.Errorf("session: told of another history %q at history %q", w.History, c.meta.History)}
		}
		out := c.adopt(w.History, w.Epoch)
		out.Send = []Message{c.hello()}
		return out
	case RetryLater:
		return Output{Close: &dispatch.RetryError{After: time.Duration(w.RetryAfterMs) * time.Millisecond, Reason: w.Reason}}
	}
	return Output{Close: refusal(w)}
}

func refusal(w *Welcome) error {
	for code, err := range map[uint32]error{CodeIdentityInUse: dispatch.ErrIdentityInUse, CodeOtherCell: dispatch.ErrOtherCell, CodeProtocol: dispatch.ErrProtocol} {
		if w.Code == code {
			return err
		}
	}
	return fmt.Errorf("server refuses the session: %s", w.Reason)
}

// adopt takes a history and an epoch. Sections of an older history keep what they show; they count as not held.
func (c *Client) adopt(history string, epoch uint64) Output {
	c.meta.History, c.meta.Epoch = history, epoch
	meta := c.meta
	return Output{Meta: &meta}
}

func (c *Client) resume(w *Welcome) Output {
	c.open = true
	var out Output
	if w.History != c.meta.History || w.Epoch != c.meta.Epoch {
		out = c.adopt(w.History, w.Epoch)
	}
	held := map[string]dispatch.Seq{}
	for _, p := range w.Actual {
		held[p.ID.Section] = p.Seq
	}
	for name, r := range c.actual {
		r.held, r.flying, r.flyFull, r.paused = held[name], false, false, false
		r.full = r.full || r.held == 0 || r.held > r.src.Seq()
	}
	for id, a := range c.applied {
		if k := c.sinks[id]; k != nil && k.History == c.meta.History {
			out.Send = append(out.Send, a)
		}
	}
	return out
}

func (c *Client) subscribe(m *Subscribe) Output {
	c.meta.Docs, c.meta.Told = m.Docs, true
	meta := c.meta
	out := Output{Meta: &meta}
	out.merge(c.dropUnneeded())
	return out
}

// dropUnneeded forgets documents that the server took away, once no item held needs them.
func (c *Client) dropUnneeded() Output {
	var out Output
	if !c.meta.Told {
		return out
	}
	wanted := map[string]bool{c.o.Target: true}
	for _, doc := range c.meta.Docs {
		wanted[doc] = true
	}
	for id, k := range c.sinks {
		if id.Doc == c.o.Target {
			k.needed(wanted)
		}
	}
	for id := range c.sinks {
		if !wanted[id.Doc] {
			delete(c.sinks, id)
			delete(c.applied, id)
			delete(c.parts, id)
			out.Drop = append(out.Drop, id)
			out.Changed = true
		}
	}
	return out
}

// needed marks the documents that any version held needs.
func (k *Sink) needed(docs map[string]bool) {
	for _, h := range k.Items {
		for _, it := range []*dispatch.Item{h.Shown, h.Pending} {
			for i := 0; it != nil && i < len(it.Needs); i++ {
				docs[it.Needs[i].Doc] = true
			}
		}
	}
}

func (c *Client) delta(d *Delta) Output {
	if c.sinks[d.ID] == nil && len(c.sinks) >= dispatch.MaxSections {
		return c.nack(d.ID, fmt.Errorf("more than %d sections", dispatch.MaxSections), false)
	}
	if c.parts[d.ID] == nil {
		c.parts[d.ID] = &assembly{}
	}
	whole, err := c.parts[d.ID].add(d)
	if err != nil {
		return c.nack(d.ID, err, true)
	}
	if whole == nil {
		return Output{}
	}
	k := c.sinks[d.ID]
	if k == nil {
		k = NewSink(d.ID, c.meta.History)
	}
	next, err := k.Apply(whole, c.meta.History)
	if err != nil {
		return c.nack(d.ID, err, true)
	}
	if next == k {
		return Output{Send: []Message{&Ack{ID: d.ID, Received: k.Seq, Durable: k.Seq}}}
	}
	return Output{Stage: []*Sink{c.stage(next.Promote(c.met))}, Send: []Message{&Ack{ID: d.ID, Received: next.Seq}}}
}

func (c *Client) stage(k *Sink) *Sink {
	assert.That(c.staged[k.ID] == nil, "section %v staged twice", k.ID)
	c.staged[k.ID] = k
	return k
}

func (c *Client) nack(id dispatch.SectionID, err error, resync bool) Output {
	text := strings.ToValidUTF8(err.Error(), "?")
	return Output{Send: []Message{&Ack{ID: id, Nack: text[:min(len(text), dispatch.MaxFailureBytes)], Resync: resync}}}
}

// met tells whether the topics are held as new as the needs say.
func (c *Client) met(needs []dispatch.Need) bool {
	for _, n := range needs {
		for _, s := range n.Sections {
			k := c.sinks[dispatch.SectionID{Doc: n.Doc, Section: s.Section}]
			if s.Seq > 0 && (k == nil || k.History != c.meta.History || k.Seq < s.Seq) {
				return false
			}
		}
	}
	return true
}

// Commit tells that a staged section is durable.
func (c *Client) Commit(k *Sink) Output {
	assert.That(c.staged[k.ID] == k, "section %v committed but not staged", k.ID)
	delete(c.staged, k.ID)
	c.sinks[k.ID] = k
	out := Output{Changed: true}
	if c.open && k.History == c.meta.History {
		out.Send = []Message{&Ack{ID: k.ID, Received: k.Seq, Durable: k.Seq}}
	}
	if len(c.staged) == 0 {
		out.merge(c.settle())
	}
	return out
}

// Abort tells that a staged section could not be made durable; the last good version stands.
func (c *Client) Abort(k *Sink, err error) Output {
	assert.That(c.staged[k.ID] == k, "section %v aborted but not staged", k.ID)
	delete(c.staged, k.ID)
	if !c.open {
		return Output{}
	}
	return c.nack(k.ID, fmt.Errorf("keep section %v: %w", k.ID, err), false)
}

// settle stages the sections in which waiting items can be shown now, and drops documents that nothing needs any more.
func (c *Client) settle() Output {
	var out Output
	for _, k := range c.sinks {
		if next := k.Promote(c.met); next != k {
			out.Stage = append(out.Stage, c.stage(next))
		}
	}
	if len(out.Stage) == 0 {
		return c.dropUnneeded()
	}
	return out
}

// Applied records how far the owner got with a section, and which items it could not apply.
func (c *Client) Applied(id dispatch.SectionID, seq dispatch.Seq, failures []dispatch.Failure) Output {
	a := &Ack{ID: id, Applied: seq, Failures: slices.Clone(failures[:min(len(failures), dispatch.MaxFailures)])}
	for i := range a.Failures {
		f := &a.Failures[i]
		f.Reason = strings.ToValidUTF8(f.Reason[:min(len(f.Reason), dispatch.MaxFailureBytes-8)], "?")
	}
	c.applied[id] = a
	if k := c.sinks[id]; !c.open || k == nil || k.History != c.meta.History {
		return Output{}
	}
	return Output{Send: []Message{a}}
}

// HoldActual keeps a section's reports back until ReadyActual: before the owner has looked, it must not seem empty.
func (c *Client) HoldActual(section string) { c.report(section).waiting = true }

// ReadyActual lets a section's reports out, also when there are none.
func (c *Client) ReadyActual(section string) { c.report(section).waiting = false }

func (c *Client) report(section string) *reported {
	r := c.actual[section]
	if r == nil {
		r = &reported{src: NewSource(), full: true}
		r.src.Advance(1) // an empty section is something to tell
		c.actual[section] = r
	}
	return r
}

// Report sets an item of the target's actual state. An unchanged payload is no change.
func (c *Client) Report(section, key string, payload []byte) {
	r := c.report(section)
	if old, ok := r.src.Get(key); ok && !old.Deleted && string(old.Payload) == string(payload) {
		return
	}
	r.src.Put(Entry{Item: dispatch.Item{Key: key, Rev: r.src.Seq() + 1, Payload: slices.Clone(payload)}})
}

// Unreport takes an item away.
func (c *Client) Unreport(section, key string) {
	r := c.report(section)
	if old, ok := r.src.Get(key); ok && !old.Deleted {
		r.src.Put(Entry{Item: dispatch.Item{Key: key, Rev: r.src.Seq() + 1, Deleted: true}})
	}
}

// PumpActual makes what is to be reported now.
func (c *Client) PumpActual() Output {
	var out Output
	if !c.open {
		return out
	}
	for name, r := range c.actual {
		if r.waiting || r.flying || r.paused || (r.held == r.src.Seq() && !r.full) {
			continue
		}
		deltas := r.src.Deltas(c.own(name), r.held, r.full, nil)
		out.Send = append(out.Send, deltas...)
		r.flying, r.flyFull, r.inflight, r.full = true, deltas[0].(*Delta).Full, r.src.Seq(), false
	}
	return out
}

func (c *Client) actualAck(m *ActualAck) Output {
	r := c.actual[m.ID.Section]
	if r == nil || m.ID.Doc != c.o.Target {
		return Output{}
	}
	if m.Resync {
		r.paused = r.flying && r.flyFull
		r.full, r.flying, r.flyFull = true, false, false
		return c.PumpActual()
	}
	r.held = max(r.held, m.Seq)
	if r.flyFull {
		r.held = m.Seq
	}
	if m.Seq >= r.inflight {
		r.flying, r.flyFull = false, false
	}
	r.src.collectUpTo(r.held) // what the server holds need not be told again
	return c.PumpActual()
}

// Heartbeat makes the periodic comparison.
func (c *Client) Heartbeat() Output {
	if !c.open {
		return Output{}
	}
	for _, r := range c.actual {
		r.paused = false
	}
	out := Output{Send: []Message{&Heartbeat{Desired: c.desired(), Actual: c.reports()}}}
	out.merge(c.PumpActual())
	return out
}
