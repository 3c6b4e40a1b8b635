package agent

import (
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// LastDHCP makes quietNetwork a dhcpSeer whose guests ask for an address as soon as they run.
func (n *quietNetwork) LastDHCP(ids.Interface) (time.Time, error) { return time.Now(), nil }

// TestStartIsTimed holds that a start's report accounts for its time in the order of what happens, that an agent's
// restart keeps the times, and that the next start has times of its own.
func TestStartIsTimed(t *testing.T) {
	r := newRig(t, fake.Options{})
	begun := time.Now().UnixMilli()
	i := r.launch(1)
	first := r.timedBy(i.ID, 1)
	last := begun
	for _, m := range first.Milestones() {
		if m.AtMs < last {
			t.Errorf("%s at %d, before %d", m.Name, m.AtMs, last)
		}
		last = m.AtMs
	}
	if n := len(first.Milestones()); n != 5 || first.ReceivedMs > first.ImageMs || first.ImageMs > first.PortsMs || first.StartedMs > first.DHCPMs {
		t.Errorf("%d milestones of %+v", n, first)
	}
	r.stop()
	r.change(func() { r.ready = false; clear(r.actual) })
	r.boot()
	if again := r.timedBy(i.ID, 1); again.ReceivedMs != first.ReceivedMs || again.DHCPMs != first.DHCPMs {
		t.Errorf("after a restart of the agent %+v, before %+v", again, first)
	}
	i.Power = host.PowerStop
	r.give(func() { r.putInstance(i) })
	r.untilState(i.ID, host.VMStopped)
	i.Power, i.Generation = host.PowerRun, 2
	r.give(func() { r.putInstance(i) })
	if second := r.timedBy(i.ID, 2); second.ReceivedMs < first.DHCPMs {
		t.Errorf("the second start was received at %d, in the first's time (%d)", second.ReceivedMs, first.DHCPMs)
	}
}

// timedBy waits for the report of a start whose guest has asked for an address.
func (r *rig) timedBy(id ids.Instance, generation uint64) (s host.InstanceStatus) {
	r.t.Helper()
	r.until("timed", func() bool {
		s = r.actual[string(id)]
		return s.Generation == generation && s.State == host.VMRunning && s.DHCPMs > 0
	})
	return s
}
