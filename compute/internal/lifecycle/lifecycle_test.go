package lifecycle

import (
	"errors"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/host"
)

const refused = compute.State(255)

// TestNext is EC2's table of legal moves, whole.
func TestNext(t *testing.T) {
	const (
		p, r, sd, tm, sg, st = compute.Pending, compute.Running, compute.ShuttingDown, compute.Terminated, compute.Stopping, compute.Stopped
	)
	from := []compute.State{p, r, sd, tm, sg, st}
	want := map[Verb][]compute.State{
		Start:         {p, r, refused, refused, refused, p},
		Stop:          {refused, sg, refused, refused, sg, st},
		Reboot:        {refused, r, refused, refused, refused, refused},
		Terminate:     {sd, sd, sd, tm, sd, sd},
		ModifyStopped: {refused, refused, refused, refused, refused, st},
	}
	for verb, row := range want {
		for i, state := range from {
			got, err := Next("i-1", state, verb)
			var illegal *compute.StateError
			if errors.As(err, &illegal) {
				got = refused
			}
			if got != row[i] {
				t.Errorf("%s from %s: got %s, want %s", pastTense[verb], state, got, row[i])
			}
		}
	}
}

func TestFold(t *testing.T) {
	pending := Situation{State: compute.Pending, Generation: 1, Attempt: 1}
	second := Situation{State: compute.Pending, Generation: 1, Attempt: 2}
	restart := Situation{State: compute.Pending, Generation: 2, Attempt: 1}
	running := Situation{State: compute.Running, Generation: 1}
	ephemeral := Situation{State: compute.Running, Generation: 1, OnShutdown: compute.ShutdownTerminates}
	stopping := Situation{State: compute.Stopping, Generation: 1}
	for _, c := range []struct {
		name string
		s    Situation
		gen  uint64
		vm   host.VMState
		want Step
	}{
		{"pending hears running", pending, 1, host.VMRunning, Run},
		{"pending, preparing", pending, 1, host.VMPreparing, Keep},
		{"first failure", pending, 1, host.VMFailed, Retry},
		{"second failure", second, 1, host.VMFailed, Fail},
		{"restart fails", restart, 2, host.VMFailed, Halt},
		{"restart, report of the stop before", restart, 1, host.VMStopped, Keep},
		{"guest was too quick", pending, 1, host.VMStopped, StopGuest},
		{"guest shut down", running, 1, host.VMStopped, StopGuest},
		{"guest shut down for good", ephemeral, 1, host.VMStopped, Vanish},
		{"machine died", running, 1, host.VMFailed, Halt},
		{"machine died, terminate on shutdown", ephemeral, 1, host.VMFailed, Halt},
		{"stopping, stopped", stopping, 1, host.VMStopped, Halt},
		{"stopping, still running", stopping, 1, host.VMRunning, Keep},
		{"terminated hears running", Situation{State: compute.ShuttingDown, Generation: 1}, 1, host.VMRunning, Keep},
		{"stopped hears running", Situation{State: compute.Stopped, Generation: 1}, 1, host.VMRunning, Keep},
	} {
		if got := Fold(c.s, host.InstanceStatus{Generation: c.gen, State: c.vm}); got != c.want {
			t.Errorf("%s: got step %d, want %d", c.name, got, c.want)
		}
	}
}

func TestOverdue(t *testing.T) {
	start := time.Unix(1000, 0)
	s := Situation{State: compute.Pending, Generation: 1, Attempt: 1, PendingSince: start, AttemptSince: start}
	expect := func(name string, s Situation, after time.Duration, want Step, wantNext time.Duration) {
		t.Helper()
		step, next := Overdue(s, start.Add(after))
		if step != want || (wantNext == 0) != next.IsZero() || (wantNext != 0 && !next.Equal(start.Add(wantNext))) {
			t.Errorf("%s: got step %d, look again at %v; want %d, %v", name, step, next.Sub(start), want, wantNext)
		}
	}
	expect("young", s, 59*time.Second, Keep, 60*time.Second)
	expect("attempt over", s, 60*time.Second, Retry, 120*time.Second)
	retried := s
	retried.Attempt, retried.AttemptSince = 2, start.Add(60*time.Second)
	expect("second attempt", retried, 119*time.Second, Keep, 120*time.Second)
	expect("limit", retried, 120*time.Second, Fail, 0)
	expect("limit, never retried", s, 130*time.Second, Fail, 0)
	restart := s
	restart.Generation = 2
	expect("restart waits to the limit", restart, 61*time.Second, Keep, 120*time.Second)
	expect("restart over", restart, 120*time.Second, Halt, 0)
	expect("running", Situation{State: compute.Running}, time.Hour, Keep, 0)
}

func TestChecks(t *testing.T) {
	up := host.InstanceStatus{State: host.VMRunning, Reach: host.ReachOK}
	silent := host.InstanceStatus{State: host.VMRunning, Reach: host.ReachImpaired}
	fresh := host.InstanceStatus{State: host.VMRunning}
	for _, c := range []struct {
		name          string
		state         compute.State
		heard, known  bool
		report        host.InstanceStatus
		system, reach compute.Check
	}{
		{"well", compute.Running, true, true, up, compute.CheckOK, compute.CheckOK},
		{"not heard yet", compute.Running, true, true, fresh, compute.CheckOK, compute.CheckInitializing},
		{"guest silent", compute.Running, true, true, silent, compute.CheckOK, compute.CheckImpaired},
		{"host silent", compute.Running, false, true, up, compute.CheckImpaired, compute.CheckInsufficientData},
		{"server just started", compute.Running, true, false, host.InstanceStatus{}, compute.CheckInsufficientData, compute.CheckInsufficientData},
		{"pending", compute.Pending, true, false, host.InstanceStatus{}, compute.CheckInitializing, compute.CheckInitializing},
		{"stopped", compute.Stopped, true, true, host.InstanceStatus{State: host.VMStopped}, compute.CheckNotApplicable, compute.CheckNotApplicable},
	} {
		if got := SystemCheck(c.state, c.heard, c.known, c.report); got != c.system {
			t.Errorf("%s: system check %s, want %s", c.name, got, c.system)
		}
		if got := ReachCheck(c.state, c.heard, c.known, c.report); got != c.reach {
			t.Errorf("%s: reachability check %s, want %s", c.name, got, c.reach)
		}
	}
}
