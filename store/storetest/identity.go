package storetest

import (
	"testing"

	"github.com/nimbrel/nimbrel/store"
)

// testOtherHistory refuses reads of a state that this history never had.
func testOtherHistory(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	s.must(put(0, key("a"), 1))
	snap := s.snapshot(0)
	for name, change := range map[string]func(*store.Commit){
		"other history": func(c *store.Commit) { c.ReadHistory[0]++ },
		"future":        func(c *store.Commit) { c.ReadVersion++ },
	} {
		c := s.commit(put(0, key("b"), 1))
		c.ReadHistory, c.ReadVersion, c.Reads = snap.History(), snap.Version(), []store.ReadRange{{Begin: key("never")}}
		change(c)
		if a := s.send(c); a.Outcome != store.OutcomeRefused || a.Reason != store.ReasonTooOld {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// testResent sends the same commit again: it is applied once and answered alike.
func testResent(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	c := s.commit(add(0, key("n"), 1, 0, 9))
	first := s.send(c)
	s.must(add(0, key("n"), 1, 0, 9))
	again := s.send(c)
	if again.Outcome != store.OutcomeCommitted || again.Version != first.Version || again.Results[0].Int != 1 {
		t.Errorf("again %+v, first %+v", again, first)
	}
	if n := s.read(s.snapshot(0), key("n")); n != 2 {
		t.Errorf("n = %d, want 2", n)
	}
	other := *c
	other.Ops = []store.Op{add(0, key("n"), 5, 0, 9)}
	if a := s.send(&other); a.Outcome != store.OutcomeRefused || a.Reason != store.ReasonMismatch {
		t.Errorf("same id, other content: %+v", a)
	}
}

// testResentFailure resends a commit whose guard failed: it fails still, though it would hold now.
func testResentFailure(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	c := s.commit(add(0, key("n"), -1, 0, 9))
	if a := s.send(c); a.Outcome != store.OutcomeGuardFailed || a.Failure.Found || a.Failure.Op != 0 {
		t.Fatalf("first: %+v", a)
	}
	s.must(put(0, key("n"), 5))
	if a := s.send(c); a.Outcome != store.OutcomeGuardFailed || a.Failure.Found {
		t.Errorf("again: %+v", a)
	}
	if n := s.read(s.snapshot(0), key("n")); n != 5 {
		t.Errorf("n = %d, want 5", n)
	}
}

func testCancelled(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	lost, sent := s.commit(put(0, key("lost"), 1)), s.commit(put(0, key("sent"), 1))
	s.send(sent)
	cancel := func(c *store.Commit) *store.Answer {
		return s.send(&store.Commit{ID: c.ID, NotAfterMs: c.NotAfterMs, Cancel: true})
	}
	if a := cancel(lost); a.Outcome != store.OutcomeCancelled {
		t.Errorf("cancel of what did not arrive: %+v", a)
	}
	if a := s.send(lost); a.Outcome != store.OutcomeRefused || a.Reason != store.ReasonCancelled {
		t.Errorf("the cancelled commit arrives: %+v", a)
	}
	if a := cancel(lost); a.Outcome != store.OutcomeCancelled {
		t.Errorf("cancel again: %+v", a)
	}
	if a := cancel(sent); a.Outcome != store.OutcomeCommitted {
		t.Errorf("cancel of what was committed: %+v", a)
	}
	if n := s.read(s.snapshot(0), key("lost")); n != -1 {
		t.Errorf("the cancelled commit wrote %d", n)
	}
}

// testAcknowledged refuses late copies of what the client acknowledged, and bounds what it does not.
func testAcknowledged(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	first := s.commit(put(0, key("n"), 1))
	s.send(first)
	second := s.commit(put(0, key("n"), 2))
	second.AckedBelow = second.ID.Seq
	s.send(second)
	if a := s.send(first); a.Outcome != store.OutcomeRefused || a.Reason != store.ReasonExpired {
		t.Errorf("late copy: %+v", a)
	}
	for len := 1; len < store.MaxSessionRecords; len++ {
		s.must(add(0, key("m"), 1, 0, 1<<40))
	}
	a := s.send(s.commit(put(0, key("n"), 3)))
	if a.Outcome != store.OutcomeRefused || a.Reason != store.ReasonOverloaded {
		t.Errorf("beyond the records of a session: %+v", a)
	}
	c := s.commit(put(0, key("n"), 4))
	c.AckedBelow = c.ID.Seq
	if a := s.send(c); a.Outcome != store.OutcomeCommitted {
		t.Errorf("after acknowledging: %+v", a)
	}
}
