package server_test

import (
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
)

// TestStats holds the counts that operators see, the age of what waits above all.
func TestStats(t *testing.T) {
	w := newWorld(t, 1)
	list := w.running(3)
	w.clock.Advance(40 * time.Second)
	w.launch(w.Request(1))
	w.until("all run", func() bool { return w.Compute().Stats().Instances[compute.Running] == 4 })
	s := w.Compute().Stats()
	if age := s.Oldest[compute.Running]; age < 40*time.Second || age > 41*time.Second || s.Oldest[compute.Pending] != 0 {
		t.Errorf("ages %v", s.Oldest)
	}
	if _, err := w.Compute().TerminateInstances(w.ctx, w.Account, list); err != nil {
		t.Fatal(err)
	}
	w.await(compute.Terminated, list...)
	w.until("nothing is left to do", func() bool { s = w.Compute().Stats(); return s.Queued == 0 && s.Working == 0 })
	if _, waits := s.Oldest[compute.Terminated]; waits || s.Instances[compute.Terminated] != 3 || s.Instances[compute.Running] != 1 {
		t.Errorf("%+v", s)
	}
}
