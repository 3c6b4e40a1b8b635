package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// milestonesFile is beside the record. It has no suffix of the driver's files, whose presence says that a machine was
// launched.
const milestonesFile = "milestones"

// dhcpPatience is how long after a start the guest's first DHCP message is looked for each second. A guest with an
// address of its own never sends one.
const dhcpPatience = 5 * time.Minute

// milestones are when a start got how far. They are for people who ask where the time went: kept without a sync, and
// empty rather than wrong.
type milestones struct {
	Generation uint64 `json:"generation"`
	ReceivedMs int64  `json:"receivedMs,omitempty"`
	ImageMs    int64  `json:"imageMs,omitempty"`
	PortsMs    int64  `json:"portsMs,omitempty"`
	DHCPMs     int64  `json:"dhcpMs,omitempty"`
}

// dhcpSeer is a Network that tells a guest's DHCP messages from others.
type dhcpSeer interface {
	// LastDHCP is when the guest last sent a DHCP message; zero is never.
	LastDHCP(ids.Interface) (time.Time, error)
}

// LastDHCP implements dhcpSeer.
func (n kernelNetwork) LastDHCP(id ids.Interface) (time.Time, error) {
	seen, err := n.LastSeen(id)
	return seen.DHCP, err
}

// received notes when the worker first saw that a generation is wanted. One that ran before this agent is not timed.
func (w *worker) received(s *snapshot) {
	if s == nil {
		return
	}
	item, present := s.instances[w.id]
	if !present || item.Generation == w.times.Generation || w.machine != nil && w.machine.Spec().Generation == item.Generation {
		return
	}
	w.times = milestones{Generation: item.Generation, ReceivedMs: time.Now().UnixMilli()}
}

// awaitsDHCP says whether the guest's first DHCP message is still looked for.
func (w *worker) awaitsDHCP() bool {
	_, can := w.agent.o.Network.(dhcpSeer)
	return can && w.times.DHCPMs == 0 && w.machine != nil && w.times.Generation == w.machine.Spec().Generation && !w.hasEnded() &&
		time.Since(time.UnixMilli(w.times.ReceivedMs)) < dhcpPatience
}

// timed adds the times to a report of the generation that they are of.
func (w *worker) timed(status *host.InstanceStatus) {
	if w.times.Generation != status.Generation {
		return
	}
	w.lookForDHCP(status)
	status.ReceivedMs, status.ImageMs, status.PortsMs, status.DHCPMs = w.times.ReceivedMs, w.times.ImageMs, w.times.PortsMs, w.times.DHCPMs
}

func (w *worker) lookForDHCP(status *host.InstanceStatus) {
	if !w.awaitsDHCP() || status.StartedMs == 0 || len(w.record.Interfaces) == 0 {
		return
	}
	seer, _ := w.agent.o.Network.(dhcpSeer)
	at, err := seer.LastDHCP(w.record.Interfaces[0])
	if err != nil || at.IsZero() || at.Before(time.UnixMilli(status.StartedMs).Add(-time.Second)) {
		return
	}
	w.times.DHCPMs = max(at.UnixMilli(), status.StartedMs) // times of hearing are good to a second
	w.keepMilestones()
}

// keepMilestones lets the next agent tell the times too.
func (w *worker) keepMilestones() {
	b, err := json.Marshal(w.times)
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, milestonesFile), b, 0o600)
	}
	if err != nil {
		w.log.Debug("times of the start are not kept", "err", err)
	}
}

// readMilestones is what an earlier agent kept; empty when that is nothing or unreadable.
func readMilestones(dir string) milestones {
	var m milestones
	if b, err := os.ReadFile(filepath.Join(dir, milestonesFile)); err != nil || json.Unmarshal(b, &m) != nil {
		return milestones{}
	}
	return m
}
