package session

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/dispatch"
)

var id = dispatch.SectionID{Doc: ownDoc, Section: "s"}

func item(key string, rev dispatch.Rev, text string) dispatch.Item {
	return dispatch.Item{Key: key, Rev: rev, Payload: []byte(text)}
}

func source(entries ...dispatch.Item) *Source {
	s := NewSource()
	for _, it := range entries {
		s.Put(Entry{Item: it})
	}
	return s
}

// apply is Apply followed by showing everything.
func apply(t *testing.T, k *Sink, src *Source, from dispatch.Seq, full bool) *Sink {
	t.Helper()
	var a assembly
	for _, m := range src.Deltas(id, from, full, nil) {
		whole, err := a.add(m.(*Delta))
		if err != nil {
			t.Fatal(err)
		}
		if whole != nil {
			next, err := k.Apply(whole, "h")
			if err != nil {
				t.Fatal(err)
			}
			return next.Promote(func([]dispatch.Need) bool { return true })
		}
	}
	t.Fatal("delta without last part")
	return nil
}

func TestRevisionsOutOfOrderStayInOrder(t *testing.T) {
	s := source(item("c", 3, "c"), item("a", 1, "a"), item("b", 2, "b"))
	entries, full := s.Since(1)
	if full || len(entries) != 2 || entries[0].Key != "b" || entries[1].Key != "c" {
		t.Fatalf("since 1: %v, full %v", entries, full)
	}
	if s.Put(Entry{Item: item("c", 2, "old")}) {
		t.Fatal("an older revision was taken")
	}
}

func TestOlderVersionLosesAtTheReceiver(t *testing.T) {
	k := apply(t, NewSink(id, "h"), source(item("a", 5, "new"), item("b", 2, "b")), 0, true)
	// A server that stood still: it knows a at 3, and c, which it thinks is new.
	late := &Delta{ID: id, From: 2, To: 6, Items: []dispatch.Item{item("a", 3, "old"), item("c", 6, "c")}}
	late.Sum = source(item("a", 5, "new"), item("b", 2, "b"), item("c", 6, "c")).Sum()
	next, err := k.Apply(late, "h")
	if err != nil {
		t.Fatal(err)
	}
	if got := next.Items["a"].Latest(); got.Rev != 5 || string(got.Payload) != "new" {
		t.Fatalf("a went back to %+v", got)
	}
	old := &Delta{ID: id, From: 0, To: 4, Full: true, Items: []dispatch.Item{item("a", 3, "old")}}
	if next, err := k.Apply(old, "h"); err != nil || next != k {
		t.Fatalf("an old full section changed something: %v, %v", next, err)
	}
}

func TestGapIsRefused(t *testing.T) {
	k := apply(t, NewSink(id, "h"), source(item("a", 1, "a")), 0, true)
	if _, err := k.Apply(&Delta{ID: id, From: 3, To: 4, Items: []dispatch.Item{item("b", 4, "b")}}, "h"); !errors.Is(err, errGap) {
		t.Fatalf("err = %v", err)
	}
}

func TestChecksumIgnoresOrderAndTombstones(t *testing.T) {
	a := source(item("a", 1, "x"), item("b", 2, "y"))
	b := source(item("b", 2, "y"), item("a", 1, "x"), dispatch.Item{Key: "c", Rev: 3, Deleted: true})
	if a.Sum() != b.Sum() {
		t.Fatal("order or a tombstone counts")
	}
	for _, other := range []*Source{source(item("a", 1, "x"), item("b", 2, "z")), source(item("a", 1, "x"), item("b", 3, "y")), source(item("a", 1, "x"), item("bb", 2, "y")), source(item("a", 1, "x"))} {
		if other.Sum() == a.Sum() {
			t.Fatal("two contents have one checksum")
		}
	}
}

// connected is a client and a server that agree on what src holds.
func connected(t *testing.T, src *Source) (*Client, *Server, *Library) {
	t.Helper()
	lib := NewLibrary()
	src.Each(func(e *Entry) bool { lib.Ensure(id).Put(*e); return true })
	c := NewClient(ClientOptions{Target: ownDoc, Incarnation: 1}, Meta{}, nil)
	s := NewServer(lib, NewTarget(), ServerOptions{Target: ownDoc, History: "h", Epoch: 1})
	exchange(t, c, s, c.Connect(nil))
	if k := c.Sections()[id]; k == nil || k.Sum() != src.Sum() {
		t.Fatalf("not in sync: %+v", k)
	}
	return c, s, lib
}

// exchange passes messages until both are silent, and answers the events.
func exchange(t *testing.T, c *Client, s *Server, out Output) (events []Event) {
	t.Helper()
	up := run(t, c, out)
	for {
		var down []Message
		for _, m := range up {
			answer, e, err := s.Receive(m)
			if err != nil {
				t.Fatal(err)
			}
			down, events = append(down, answer...), append(events, e...)
		}
		pumped, e := s.Pump()
		down, events = append(down, pumped...), append(events, e...)
		if up = nil; len(down) == 0 {
			return events
		}
		for _, m := range down {
			up = append(up, run(t, c, c.Receive(m))...)
		}
	}
}

func run(t *testing.T, c *Client, out Output) (send []Message) {
	t.Helper()
	for queue := []Output{out}; len(queue) > 0; queue = queue[1:] {
		if queue[0].Close != nil {
			t.Fatal(queue[0].Close)
		}
		send = append(send, queue[0].Send...)
		for _, k := range queue[0].Stage {
			queue = append(queue, c.Commit(k))
		}
	}
	return send
}

func TestDamageAtEqualSequenceIsReportedAndRepaired(t *testing.T) {
	c, s, _ := connected(t, source(item("a", 1, "a"), item("b", 2, "b")))
	c.sinks[id].Items["a"].Shown.Payload = []byte("bit flipped")
	events := exchange(t, c, s, c.Heartbeat())
	if len(events) == 0 {
		t.Fatal("no alarm")
	}
	if a, ok := events[0].(*Alarm); !ok || a.ID != id {
		t.Fatalf("event %+v", events[0])
	}
	if got := c.Sections()[id].Items["a"].Shown; string(got.Payload) != "a" {
		t.Fatalf("not repaired: %q", got.Payload)
	}
	if events := exchange(t, c, s, c.Heartbeat()); len(events) != 0 {
		t.Fatalf("still alarmed: %+v", events[0])
	}
}

func TestDamageFoundByADeltaIsRefusedAndRepaired(t *testing.T) {
	c, s, lib := connected(t, source(item("a", 1, "a")))
	k := c.sinks[id].clone()
	k.sum = k.sum.Add(dispatch.Checksum{Lo: 1})
	c.sinks[id] = k
	lib.Ensure(id).Put(Entry{Item: item("b", 2, "b")})
	out, _ := s.Pump()
	ack := run(t, c, c.Receive(out[0]))
	nack, ok := ack[0].(*Ack)
	if !ok || !nack.Resync || !strings.Contains(nack.Nack, "checksum") || c.Sections()[id] != k {
		t.Fatalf("answer %+v", ack[0])
	}
	exchange(t, c, s, Output{Send: ack})
	if got := c.Sections()[id]; got.Seq != 2 || got.Sum() != lib.Section(id).Sum() || len(got.Items) != 2 {
		t.Fatalf("not repaired: %+v", got)
	}
}

func TestNackKeepsTheLastGoodVersion(t *testing.T) {
	c, s, lib := connected(t, source(item("a", 1, "good")))
	lib.Ensure(id).Put(Entry{Item: item("a", 2, "next")})
	out, _ := s.Pump()
	o := c.Receive(out[0])
	if len(o.Stage) != 1 {
		t.Fatalf("output %+v", o)
	}
	nacks := c.Abort(o.Stage[0], errors.New("disk full")).Send
	if got := c.Sections()[id].Items["a"].Shown; string(got.Payload) != "good" {
		t.Fatalf("shows %q", got.Payload)
	}
	_, events, err := s.Receive(nacks[0])
	if err != nil || len(events) != 1 || !strings.Contains(events[0].(*Nacked).Reason, "disk full") {
		t.Fatalf("events %+v, %v", events, err)
	}
	if again, _ := s.Pump(); len(again) != 0 {
		t.Fatal("sent again at once: a full disk would be hammered")
	}
	exchange(t, c, s, c.Heartbeat())
	if got := c.Sections()[id].Items["a"].Shown; string(got.Payload) != "next" {
		t.Fatalf("after the next heartbeat it shows %q", got.Payload)
	}
}

func TestSlowTargetGetsOneMergedDelta(t *testing.T) {
	c, s, lib := connected(t, source(item("a", 1, "a")))
	src := lib.Ensure(id)
	src.Put(Entry{Item: item("a", 2, "first change")})
	first, _ := s.Pump()
	for rev := dispatch.Rev(3); rev < 1000; rev++ { // while the first is on its way
		src.Put(Entry{Item: item("a", rev, fmt.Sprint(rev))})
		if more, _ := s.Pump(); len(more) != 0 {
			t.Fatal("a second delta was sent before the first was acknowledged")
		}
	}
	for _, ack := range run(t, c, c.Receive(first[0])) {
		if _, _, err := s.Receive(ack); err != nil {
			t.Fatal(err)
		}
	}
	merged, _ := s.Pump()
	if d := merged[0].(*Delta); len(merged) != 1 || len(d.Items) != 1 || d.From != 2 || d.To != 999 {
		t.Fatalf("merged delta %+v", d)
	}
}

func TestLargeSectionTravelsInPartsAndIsShownWhole(t *testing.T) {
	src := NewSource()
	for i := range 40 {
		src.Put(Entry{Item: dispatch.Item{Key: fmt.Sprint(i), Rev: dispatch.Rev(i + 1), Payload: bytes.Repeat([]byte{byte(i)}, 20<<10)}})
	}
	parts := src.Deltas(id, 0, true, nil)
	if len(parts) < 5 {
		t.Fatalf("%d parts", len(parts))
	}
	var a assembly
	for i, m := range parts {
		whole, err := a.add(m.(*Delta))
		if err != nil || (whole != nil) != (i == len(parts)-1) {
			t.Fatalf("part %d: %v, %v", i, whole != nil, err)
		}
	}
	if _, err := a.add(parts[2].(*Delta)); err == nil {
		t.Fatal("a part out of order was taken")
	}
	if k := apply(t, NewSink(id, "h"), src, 0, true); k.Sum() != src.Sum() {
		t.Fatal("parts do not add up")
	}
}

func TestTargetAheadIsReportedNotRolledBack(t *testing.T) {
	c, _, _ := connected(t, source(item("a", 7, "new")))
	behind := NewLibrary()
	behind.Ensure(id).Put(Entry{Item: item("a", 3, "old")})
	s := NewServer(behind, NewTarget(), ServerOptions{Target: ownDoc, History: "h", Epoch: 1})
	events := exchange(t, c, s, c.Connect(nil))
	alarmed := false
	for _, e := range events {
		a, ok := e.(*Alarm)
		alarmed = alarmed || ok && strings.Contains(a.Reason, "target is at sequence 7")
	}
	if got := c.Sections()[id].Items["a"].Shown; !alarmed || string(got.Payload) != "new" {
		t.Fatalf("alarmed %v, shows %q", alarmed, got.Payload)
	}
}

func TestRefusals(t *testing.T) {
	hello := func(change func(*Hello)) *Welcome {
		h := &Hello{Target: ownDoc, Cell: 1, Incarnation: 1, ProtocolMin: 1, ProtocolMax: 1}
		change(h)
		out, _, err := NewServer(NewLibrary(), NewTarget(), ServerOptions{Target: ownDoc, Cell: 1, History: "h", Epoch: 3}).Receive(h)
		if err != nil {
			t.Fatal(err)
		}
		return out[0].(*Welcome)
	}
	for name, c := range map[string]struct {
		change  func(*Hello)
		verdict Verdict
	}{
		"fine":          {func(*Hello) {}, Resume},
		"same":          {func(h *Hello) { h.History, h.Epoch = "h", 3 }, Resume},
		"cell":          {func(h *Hello) { h.Cell = 2 }, Refused},
		"protocol":      {func(h *Hello) { h.ProtocolMin, h.ProtocolMax = 7, 9 }, Refused},
		"old epoch":     {func(h *Hello) { h.History, h.Epoch = "h", 2 }, StandDown},
		"newer epoch":   {func(h *Hello) { h.History, h.Epoch = "h", 4 }, RetryLater},
		"other history": {func(h *Hello) { h.History, h.Epoch = "g", 9 }, OtherHistory},
	} {
		if w := hello(c.change); w.Verdict != c.verdict {
			t.Errorf("%s: verdict %d (%s)", name, w.Verdict, w.Reason)
		}
	}
	if _, _, err := NewServer(NewLibrary(), NewTarget(), ServerOptions{Target: "host/other", History: "h", Epoch: 1}).Receive(&Hello{Target: ownDoc}); err == nil {
		t.Error("a hello under another name was taken")
	}
	c := NewClient(ClientOptions{Target: ownDoc, Incarnation: 1}, Meta{}, nil)
	if out := c.Receive(&Welcome{Verdict: Refused, Code: CodeIdentityInUse}); !errors.Is(out.Close, dispatch.ErrIdentityInUse) {
		t.Errorf("close with %v", out.Close)
	}
	var retry *dispatch.RetryError
	if out := c.Receive(&Welcome{Verdict: RetryLater, RetryAfterMs: 1500}); !errors.As(out.Close, &retry) || retry.After.Milliseconds() != 1500 {
		t.Errorf("close with %v", out.Close)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range []Message{
		&Hello{Target: ownDoc, History: "h", Incarnation: 9, ProtocolMin: 1, ProtocolMax: 1, Desired: []dispatch.Position{{ID: id, Seq: 3, Sum: dispatch.Checksum{Hi: 1, Lo: 2}}}, Info: []byte{0xa0}},
		&Welcome{Verdict: StandDown, History: "h", Epoch: 2, Reason: "because"},
		&Subscribe{Docs: topicDocs},
		&Delta{ID: id, From: 1, To: 4, Items: []dispatch.Item{item("a", 4, "x"), {Key: "b", Rev: 3, Deleted: true}}, Sum: dispatch.Checksum{Lo: 7}},
		&Ack{ID: id, Received: 4, Durable: 4, Applied: 3, Failures: []dispatch.Failure{{Key: "a", Rev: 4, Reason: "no"}}, Nack: "full"},
		&ActualAck{ID: id, Seq: 4}, &Heartbeat{Actual: []dispatch.Position{{ID: id}}}, &HeartbeatAck{},
	} {
		b, err := Encode(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(nil, m)
		if err != nil {
			t.Fatalf("decoded message does not encode: %v", err)
		}
		if m2, err := Decode(again); err != nil || fmt.Sprintf("%+v", m2) != fmt.Sprintf("%+v", m) {
			t.Fatalf("%+v became %+v, %v", m, m2, err)
		}
	})
}

// FuzzPeers feeds each end with arbitrary valid messages of the other's kinds: it may refuse, never break.
func FuzzPeers(f *testing.F) {
	delta, _ := Encode(nil, &Delta{ID: id, From: 0, To: 1, Full: true, Items: []dispatch.Item{item("a", 1, "x")}, Sum: source(item("a", 1, "x")).Sum()})
	f.Add(delta, true)
	f.Add(delta, false)
	f.Fuzz(func(t *testing.T, b []byte, toServer bool) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		c, s, _ := connected(t, source(item("a", 1, "a"), item("b", 2, "b")))
		if toServer {
			_, _, _ = s.Receive(m)
			_, _ = s.Pump()
			return
		}
		for queue := []Output{c.Receive(m)}; len(queue) > 0; queue = queue[1:] {
			for _, k := range queue[0].Stage {
				queue = append(queue, c.Commit(k))
			}
		}
		c.Heartbeat()
	})
}

// TestAcknowledgementsAreNotBelieved: marks beyond what was sent in this session, or held by the target before it, are cut
// and told.
func TestAcknowledgementsAreNotBelieved(t *testing.T) {
	lib, target := NewLibrary(), NewTarget()
	src := lib.Ensure(id)
	src.Put(Entry{Item: item("a", 3, "a")})
	s := NewServer(lib, target, ServerOptions{Target: ownDoc, History: "h", Epoch: 1})
	hello := &Hello{Target: ownDoc, ProtocolMin: dispatch.ProtocolMin, ProtocolMax: dispatch.ProtocolMax, History: "h", Epoch: 1,
		Desired: []dispatch.Position{{ID: id, Seq: 9}}}
	if _, _, err := s.Receive(hello); err != nil || !s.Open() {
		t.Fatalf("hello: %v", err)
	}
	ack := func(what string, a *Ack, want Marks, alarms bool) {
		t.Helper()
		_, events, err := s.Receive(a)
		if err != nil {
			t.Fatal(err)
		}
		applied, alarmed := dispatch.Seq(0), false
		for _, e := range events {
			switch e := e.(type) {
			case *Applied:
				applied = e.Seq
			case *Alarm:
				alarmed = true
			}
		}
		if got := *target.Marks[id]; got != want || alarmed != alarms || (a.Applied > 0 && applied != want.Applied) {
			t.Errorf("%s: marks %+v, told applied %d, alarmed %v; want %+v, %v", what, got, applied, alarmed, want, alarms)
		}
	}
	ack("beyond everything", &Ack{ID: id, Received: 9, Durable: 9, Applied: 9}, Marks{3, 3, 3}, true)
	src.Put(Entry{Item: item("a", 4, "b")})
	ack("committed and not sent", &Ack{ID: id, Received: 4, Durable: 4, Applied: 4}, Marks{3, 3, 3}, true)
	if err := func() error {
		_, _, err := s.Receive(&Heartbeat{Desired: []dispatch.Position{{ID: id, Seq: 3}}})
		return err
	}(); err != nil {
		t.Fatal(err)
	}
	if out, _ := s.Pump(); len(out) == 0 {
		t.Fatal("nothing is sent")
	}
	ack("sent", &Ack{ID: id, Received: 4, Durable: 4, Applied: 4}, Marks{4, 4, 4}, false)
}
