package session

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/nimbrel/nimbrel/dispatch"
)

// ServerOptions describe the server's side of one session.
type ServerOptions struct {
	Target  string
	Cell    uint32
	History string // never empty
	Epoch   uint64 // the target's, at least 1
}

// Target is what the server knows of a target across sessions.
type Target struct {
	Marks       map[dispatch.SectionID]*Marks
	Incarnation uint64
	Mirror      map[string]*Sink // what the target reports, by section
}

// Marks are how far a target got with a section; they only rise.
type Marks struct {
	Received, Durable, Applied dispatch.Seq
}

// NewTarget makes the memory of a target that was never heard.
func NewTarget() *Target {
	return &Target{Marks: map[dispatch.SectionID]*Marks{}, Mirror: map[string]*Sink{}}
}

// Event is something that the session's owner acts on: *Opened, *Applied, *Actual, *Nacked or *Alarm.
type Event any

type (
	// Opened: the hello was accepted.
	Opened struct{ Hello *Hello }
	// Applied: the target's marks for a section of its own document, or of a topic.
	Applied struct {
		ID       dispatch.SectionID
		Seq      dispatch.Seq
		Failures []dispatch.Failure
	}
	// Actual: the target's reports. With Full, Upserts are all of the section.
	Actual struct {
		Section string
		Full    bool
		Upserts []dispatch.Item
		Deletes []string
	}
	// Nacked: the target could not take a delta and keeps what it had.
	Nacked struct {
		ID     dispatch.SectionID
		Reason string
	}
	// Alarm: the two ends differ where they must not. It is repaired, and it is a defect.
	Alarm struct {
		ID     dispatch.SectionID
		Reason string
	}
)

// Server is one session as the server runs it.
type Server struct {
	o        ServerOptions
	lib      *Library
	target   *Target
	open     bool
	subs     map[string]bool // told to the target
	ownAt    uint64          // library version of the own document that subs was computed from
	sections map[dispatch.SectionID]*outbound
	actual   map[string]*assembly
}

// outbound is what the session knows of one section at the target.
type outbound struct {
	held     dispatch.Seq
	sent     dispatch.Seq      // the target can know of no later one
	sum      dispatch.Checksum // at held, as said in the hello; counts while fresh is set
	fresh    bool              // the hello's word was not compared yet
	flying   bool              // a delta is unacknowledged
	flyFull  bool
	inflight dispatch.Seq
	full     bool // only the whole section helps
	paused   bool // refused: nothing is sent before the next heartbeat
	ahead    bool // the target holds more than the library: reported, never rolled back
}

// NewServer begins a session on a connection whose peer was identified as o.Target.
func NewServer(lib *Library, target *Target, o ServerOptions) *Server {
	return &Server{o: o, lib: lib, target: target, sections: map[dispatch.SectionID]*outbound{}, actual: map[string]*assembly{}}
}

// Open tells whether the target is being served.
func (s *Server) Open() bool { return s.open }

// Subscribed tells whether a change of the document concerns the target.
func (s *Server) Subscribed(doc string) bool { return doc == s.o.Target || s.subs[doc] }

// Subscriptions lists the documents the target was told to hold, its own apart.
func (s *Server) Subscriptions() []string { return slices.Sorted(maps.Keys(s.subs)) }

// Receive takes a message of the target. An error ends the session. Pump is to be called after.
func (s *Server) Receive(m Message) (out []Message, events []Event, err error) {
	if h, ok := m.(*Hello); ok {
		return s.hello(h)
	}
	if !s.open {
		return nil, nil, fmt.Errorf("session with %s: %T before hello", s.o.Target, m)
	}
	switch m := m.(type) {
	case *Ack:
		return nil, s.ack(m), nil
	case *Heartbeat:
		return s.heartbeat(m)
	case *Delta:
		return s.report(m)
	}
	return nil, nil, fmt.Errorf("session with %s: unexpected %T", s.o.Target, m)
}

func (s *Server) hello(h *Hello) ([]Message, []Event, error) {
	if s.open {
		return nil, nil, fmt.Errorf("session with %s: second hello", s.o.Target)
	}
	refuse := func(code uint32, err error) ([]Message, []Event, error) {
		return []Message{&Welcome{Verdict: Refused, Code: code, Reason: err.Error()}}, nil, nil
	}
	protocol := min(h.ProtocolMax, dispatch.ProtocolMax)
	switch {
	case h.Target != s.o.Target:
		return nil, nil, fmt.Errorf("session with %s: hello names %s", s.o.Target, h.Target)
	case protocol < max(h.ProtocolMin, dispatch.ProtocolMin):
		return refuse(CodeProtocol, dispatch.ErrProtocol)
	case h.Cell != s.o.Cell:
		return refuse(CodeOtherCell, dispatch.ErrOtherCell)
	}
	w := &Welcome{Verdict: Resume, History: s.o.History, Epoch: s.o.Epoch, Protocol: protocol}
	switch {
	case h.History != "" && h.History != s.o.History:
		w.Verdict = OtherHistory
		return []Message{w}, nil, nil
	case h.Epoch != 0 && h.Epoch < s.o.Epoch:
		w.Verdict = StandDown
		return []Message{w}, nil, nil
	case h.Epoch > s.o.Epoch:
		w = &Welcome{Verdict: RetryLater, RetryAfterMs: 10_000, Reason: fmt.Sprintf("target is at epoch %d, this server at %d: the server is behind", h.Epoch, s.o.Epoch)}
		return []Message{w}, []Event{&Alarm{Reason: w.Reason}}, nil
	}
	s.open = true
	for _, p := range h.Desired {
		s.sections[p.ID] = &outbound{held: p.Seq, sent: min(p.Seq, s.seq(p.ID)), sum: p.Sum, fresh: p.Seq > 0, full: p.Seq == 0}
	}
	s.meet(h)
	for name, k := range s.target.Mirror {
		w.Actual = append(w.Actual, dispatch.Position{ID: dispatch.SectionID{Doc: s.o.Target, Section: name}, Seq: k.Seq, Sum: k.Sum()})
	}
	return []Message{w}, []Event{&Opened{Hello: h}}, nil
}

// meet keeps the reports of this incarnation and forgets how far another one's were counted; their content stays until
// the new one reports the section whole.
func (s *Server) meet(h *Hello) {
	if s.target.Incarnation == h.Incarnation {
		return
	}
	s.target.Incarnation = h.Incarnation
	for _, k := range s.target.Mirror {
		k.Seq = 0
	}
}

func (s *Server) ack(a *Ack) []Event {
	o := s.sections[a.ID]
	if o == nil {
		return nil // unsubscribed meanwhile
	}
	a, events := o.believable(a)
	m := s.marks(a.ID)
	m.Received = max(m.Received, a.Received)
	m.Durable = max(m.Durable, a.Durable)
	if a.Durable > 0 {
		o.held = max(o.held, a.Durable)
		if o.flyFull {
			o.held = a.Durable
		}
		if o.flying && a.Durable >= o.inflight {
			o.flying, o.flyFull = false, false
		}
	}
	if a.Nack != "" {
		events = append(events, &Nacked{ID: a.ID, Reason: a.Nack})
		o.paused = o.flyFull || !a.Resync
		o.full = o.full || a.Resync || o.flyFull
		o.flying, o.flyFull = false, false
	}
	if a.Applied > 0 {
		m.Applied = max(m.Applied, a.Applied)
		events = append(events, &Applied{ID: a.ID, Seq: a.Applied, Failures: a.Failures})
	}
	return events
}

// believable cuts an acknowledgement down to what was sent: by a target's applied mark others get what it held, so a
// faulty one must not reach ahead.
func (o *outbound) believable(a *Ack) (*Ack, []Event) {
	if max(a.Received, a.Durable, a.Applied) <= o.sent {
		return a, nil
	}
	reason := fmt.Sprintf("acknowledges received %d, durable %d, applied %d: nothing after %d was sent", a.Received, a.Durable, a.Applied, o.sent)
	cut := *a
	cut.Received, cut.Durable, cut.Applied = min(a.Received, o.sent), min(a.Durable, o.sent), min(a.Applied, o.sent)
	return &cut, []Event{&Alarm{ID: a.ID, Reason: reason}}
}

// seq is a section's newest sequence; 0 when there is none.
func (s *Server) seq(id dispatch.SectionID) dispatch.Seq {
	if src := s.lib.Section(id); src != nil {
		return src.Seq()
	}
	return 0
}

func (s *Server) marks(id dispatch.SectionID) *Marks {
	m := s.target.Marks[id]
	if m == nil {
		m = &Marks{}
		s.target.Marks[id] = m
	}
	return m
}

// heartbeat compares both directions at equal sequences, and makes good what a section is said to lack.
func (s *Server) heartbeat(h *Heartbeat) ([]Message, []Event, error) {
	var events []Event
	out := []Message{&HeartbeatAck{}}
	said := make(map[dispatch.SectionID]dispatch.Position, len(h.Desired))
	for _, p := range h.Desired {
		said[p.ID] = p
	}
	for id, o := range s.sections {
		o.paused = false
		if o.flying {
			continue
		}
		p, known := said[id]
		known = known || s.lib.Section(id) != nil
		o.held, o.sum, o.fresh = p.Seq, p.Sum, p.Seq > 0
		if known {
			o.full = o.full || p.Seq == 0
		}
	}
	for _, p := range h.Actual {
		k := s.target.Mirror[p.ID.Section]
		if k != nil && k.Seq == p.Seq && k.Recount() != p.Sum {
			events = append(events, &Alarm{ID: p.ID, Reason: fmt.Sprintf("reports at sequence %d have checksum %v here, %v there", p.Seq, k.Recount(), p.Sum)})
			out = append(out, &ActualAck{ID: p.ID, Resync: true})
		}
	}
	return out, events, nil
}

// report folds a delta of the target's actual state into the mirror.
func (s *Server) report(d *Delta) ([]Message, []Event, error) {
	if d.ID.Doc != s.o.Target {
		return nil, nil, fmt.Errorf("session with %s: reports about %s", s.o.Target, d.ID.Doc)
	}
	name := d.ID.Section
	k := s.target.Mirror[name]
	if k == nil {
		if len(s.target.Mirror) >= dispatch.MaxSections {
			return nil, nil, fmt.Errorf("session with %s: more than %d reported sections", s.o.Target, dispatch.MaxSections)
		}
		k = NewSink(d.ID, "")
	}
	if s.actual[name] == nil {
		s.actual[name] = &assembly{}
	}
	resync := []Message{&ActualAck{ID: d.ID, Resync: true}}
	whole, err := s.actual[name].add(d)
	if err != nil {
		return resync, []Event{&Alarm{ID: d.ID, Reason: err.Error()}}, nil
	}
	if whole == nil {
		return nil, nil, nil
	}
	next, err := k.Apply(whole, strconv.FormatUint(s.target.Incarnation, 10))
	if err != nil {
		return resync, []Event{&Alarm{ID: d.ID, Reason: err.Error()}}, nil
	}
	ack := []Message{&ActualAck{ID: d.ID, Seq: next.Seq}}
	if next == k {
		return ack, nil, nil
	}
	next = next.Promote(func([]dispatch.Need) bool { return true })
	clear(next.Orphans)
	s.target.Mirror[name] = next
	return ack, []Event{actualEvent(name, whole)}, nil
}

func actualEvent(section string, d *Delta) *Actual {
	e := &Actual{Section: section, Full: d.Full}
	for _, it := range d.Items {
		switch {
		case !it.Deleted:
			e.Upserts = append(e.Upserts, it)
		case !d.Full:
			e.Deletes = append(e.Deletes, it.Key)
		}
	}
	return e
}

// ResendAll makes every section go out in full, one delta at a time as ever.
func (s *Server) ResendAll() {
	for _, o := range s.sections {
		o.full = true
	}
}

// Pump makes what is to be sent now: the subscription when it changed, and for each section without an unacknowledged
// delta what the target lacks. Topics go before the own document, whose items wait for them.
func (s *Server) Pump() (out []Message, events []Event) {
	if !s.open {
		return nil, nil
	}
	if v := s.lib.version(s.o.Target); s.subs == nil || v != s.ownAt {
		s.ownAt = v
		if m := s.resubscribe(); m != nil {
			out = append(out, m)
		}
	}
	for _, doc := range append(s.Subscriptions(), s.o.Target) {
		for _, name := range s.lib.Sections(doc) {
			deltas, event := s.pumpSection(dispatch.SectionID{Doc: doc, Section: name})
			out = append(out, deltas...)
			if event != nil {
				events = append(events, event)
			}
		}
	}
	return append(out, s.pumpGone()...), events
}

// pumpGone answers for sections that the target holds of another history and that do not exist in this one: they are
// empty, which makes orphans of what was in them.
func (s *Server) pumpGone() (out []Message) {
	for id, o := range s.sections {
		if o.full && !o.paused && s.lib.Section(id) == nil {
			o.full = false
			out = append(out, &Delta{ID: id, Full: true})
		}
	}
	return out
}

func (s *Server) resubscribe() Message {
	topics := s.lib.topics(s.o.Target)
	delete(topics, s.o.Target)
	if s.subs != nil && maps.Equal(topics, s.subs) {
		return nil
	}
	s.subs = topics
	maps.DeleteFunc(s.sections, func(id dispatch.SectionID, _ *outbound) bool { return !s.Subscribed(id.Doc) })
	return &Subscribe{Docs: s.Subscriptions()}
}

func (s *Server) pumpSection(id dispatch.SectionID) (out []Message, event Event) {
	o := s.sections[id]
	if o == nil {
		o = &outbound{full: true}
		s.sections[id] = o
	}
	src := s.lib.Section(id)
	if o.fresh {
		event = o.compare(id, src)
	}
	if o.flying || o.paused || o.held > src.Seq() || (o.held == src.Seq() && !o.full) {
		return nil, event
	}
	needs := s.lib.Needs
	if id.Doc != s.o.Target {
		needs = nil // topics of topics do not count
	}
	out = src.Deltas(id, o.held, o.full, needs)
	o.flying, o.flyFull, o.inflight, o.full = true, out[0].(*Delta).Full, src.Seq(), false
	o.sent = src.Seq()
	return out, event
}

// compare judges what the target said it holds; differing at equal sequences is a defect, and so is being ahead.
func (o *outbound) compare(id dispatch.SectionID, src *Source) Event {
	switch {
	case o.held == src.Seq() && o.sum != src.Sum():
		o.fresh, o.full, o.ahead = false, true, false
		return &Alarm{ID: id, Reason: fmt.Sprintf("at sequence %d the checksum is %v here, %v there", o.held, src.Sum(), o.sum)}
	case o.held > src.Seq():
		if !o.ahead {
			o.ahead = true
			return &Alarm{ID: id, Reason: fmt.Sprintf("target is at sequence %d, this server at %d", o.held, src.Seq())}
		}
		return nil
	}
	o.fresh, o.ahead = false, false
	return nil
}
