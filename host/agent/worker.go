package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/reconcile"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// worker makes one guest what is wanted of it. Its fields are its goroutine's alone, but for those named.
type worker struct {
	agent *agent
	id    ids.Instance
	dir   string
	log   *slog.Logger
	wake  chan struct{} // capacity 1

	// agent.mu guards these.
	adopting bool                    // has not looked yet since the start of the agent
	settled  bool                    // aim is done, or has failed for good
	aim      aim                     // what was last settled
	failure  string                  // why it has failed for good
	ports    []ids.Interface         // that it may hold open
	shared   vm.VM                   // machine, for streams
	state    host.VMState            // as last reported
	starting *wantedInstance         // what a start under way is for, until its machine runs
	overtake context.CancelCauseFunc // ends that start

	machine   vm.VM // nil when nothing was launched, or it is not held
	record    record
	named     bool   // the record exists
	unheard   bool   // runs, and has not been heard on its network
	unknown   string // why it cannot be told whether a guest runs in the directory
	pressedAt time.Time
	lastPress time.Time
	attempts  int
	attempted uint64
	triedAt   time.Time
	code      string
	reason    string
	reported  string // the last report, encoded
	times     milestones
}

// look makes the worker look soon. It never waits.
func (w *worker) look() { notify(w.wake) }

// run looks, decides and performs until the guest is gone or ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.letGo()
	w.adopt(ctx)
	for ctx.Err() == nil {
		if w.unknown != "" {
			w.adopt(ctx) // a person may have put it right
		}
		s, ready := w.agent.current()
		w.mendRecord(s)
		d := w.decide(s, ready)
		w.received(s)
		if d.State != host.VMStopping {
			w.pressedAt, w.lastPress = time.Time{}, time.Time{} // a later power-off has its own patience
		}
		w.report(ctx, s, d)
		w.agent.looked(w)
		if d.Step != reconcile.None {
			w.log.Info("step", "step", d.Step.String())
			if err := w.perform(ctx, d.Step, s); err != nil && ctx.Err() == nil {
				w.agent.failed.steps.Add(1)
				w.log.Warn("step failed", "step", d.Step.String(), "err", err)
				w.sleep(ctx, time.Second)
			}
			continue
		}
		if s != nil && d.Settled {
			w.settle(s, d)
			if d.State == 0 && w.machine == nil && w.agent.finish(w, s) {
				w.agent.acknowledge()
				return
			}
		}
		again := d.Again
		if (w.unheard || w.awaitsDHCP()) && again == 0 {
			again = listenEvery
		}
		w.sleep(ctx, again)
	}
}

// sleep waits for a reason to look again. again is when to look without one; 0 leaves it to the regular look.
func (w *worker) sleep(ctx context.Context, again time.Duration) {
	if again <= 0 || again > lookEvery {
		again = lookEvery
	}
	timer := time.NewTimer(again)
	defer timer.Stop()
	var done, changes <-chan struct{}
	if w.machine != nil {
		changes = w.machine.Changes()
		if !w.hasEnded() {
			done = w.machine.Done()
		}
	}
	select {
	case <-w.wake:
	case <-done:
	case <-changes:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// adopt opens what an earlier agent left.
func (w *worker) adopt(ctx context.Context) {
	if _, err := os.Stat(w.dir); err != nil {
		w.unknown = w.stray()
		return
	}
	var err error
	if w.record, w.named, err = readRecord(w.dir); err != nil {
		w.log.Error("record is damaged", "err", err)
		w.unknown = err.Error()
		return
	}
	w.agent.users.take(w.record.UID)
	w.holdPorts(w.record.Interfaces)
	w.times = readMilestones(w.dir)
	w.unknown = ""
	machine, err := w.agent.driver.Adopt(ctx, w.dir)
	switch {
	case err == nil:
		w.hold(machine)
		w.pinImage()
	case errors.Is(err, vm.ErrNoSpec) && !launched(w.dir), errors.Is(err, vm.ErrNeverRan):
		w.log.Info("guest never ran")
	default:
		w.log.Error("guest is not adopted", "err", err)
		w.unknown = err.Error()
	}
}

// mendRecord writes the record of a guest that has lost it, once a document names the guest. A reboot that the document
// asks for counts as done: it may have been.
func (w *worker) mendRecord(s *snapshot) {
	if w.named || w.machine == nil || s == nil {
		return
	}
	item, present := s.instances[w.id]
	if !present || item.invalid != nil {
		return
	}
	mended := recordOf(&item.Instance, w.machine.Spec().UID)
	if err := mended.write(w.dir); err != nil {
		w.log.Warn("record is not mended", "err", err)
		return
	}
	w.log.Warn("record was lost and is made anew from the document")
	w.agent.users.take(mended.UID)
	w.holdPorts(mended.Interfaces)
	w.record, w.named = mended, true
}

// stray says that a machine of the guest runs although nothing on disk tells of it; "" when none does.
func (w *worker) stray() string {
	pid, runs := vm.FindMachines(w.agent.o.UIDBase, w.agent.o.UIDCount)[w.id]
	if !runs {
		return ""
	}
	text := fmt.Sprintf("process %d is a machine of this guest, and its directory is gone: put the directory back, or end the process", pid)
	if w.unknown == "" {
		w.log.Error("machine is left alone", "reason", text)
	}
	return text
}

// launched says whether the driver left anything in a directory.
func launched(dir string) bool {
	found, err := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, path := range found {
		if filepath.Base(path) != recordFile {
			return true
		}
	}
	return err != nil
}

// hold takes a machine over.
func (w *worker) hold(machine vm.VM) {
	w.machine = machine
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	w.shared = machine
}

// mayHold adds interfaces that a start from here on may open ports for. The caller holds agent.mu.
func (w *worker) mayHold(ports []ids.Interface) {
	for _, id := range ports {
		if !slices.Contains(w.ports, id) {
			w.ports = append(slices.Clip(w.ports), id)
		}
	}
}

// holdPorts notes the interfaces that may have a port, before one is opened and after all are closed.
func (w *worker) holdPorts(ports []ids.Interface) {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	w.ports = ports
}

// letGo releases the machine, which goes on.
func (w *worker) letGo() {
	if w.machine == nil {
		return
	}
	if err := w.machine.Release(); err != nil {
		w.log.Warn("guest is not released", "err", err)
	}
	w.hold(nil)
}

func (w *worker) hasEnded() bool {
	select {
	case <-w.machine.Done():
		return true
	default:
		return false
	}
}

func (w *worker) decide(s *snapshot, ready bool) reconcile.Decision {
	return reconcile.Decide(w.want(s, ready), w.have(), time.Now())
}

func (w *worker) want(s *snapshot, ready bool) reconcile.Want {
	if s == nil {
		return reconcile.Want{}
	}
	item, present := s.instances[w.id]
	want := reconcile.Want{Known: s.known, Present: present, Unsure: !present && s.unsure[w.id], Orphan: !present && s.orphans[w.id], Instance: item.Instance, Invalid: item.invalid}
	want.Ready = ready && (w.agent.o.Network == nil || s.missingInterface(&item.Instance) == "")
	return want
}

func (w *worker) have() reconcile.Have {
	h := reconcile.Have{
		Named: w.named, Unknown: w.unknown, RebootID: w.record.RebootID, PressedAt: w.pressedAt, LastPress: w.lastPress,
		Attempts: w.attempts, Attempted: w.attempted, AttemptedAt: w.triedAt, Code: w.code, Reason: w.reason,
	}
	_, err := os.Stat(w.dir)
	h.Directory = err == nil
	if w.machine != nil {
		h.Generation = w.machine.Spec().Generation
		h.Running = !w.hasEnded()
		if !h.Running {
			exit := w.machine.Exit()
			h.Cause, h.Ending = causes[exit.Cause], exit.Reason
		}
	}
	return h
}

// causes translates a driver's word on an end.
var causes = map[vm.Cause]reconcile.Cause{
	vm.CausePowerOff: reconcile.PoweredOff, vm.CauseKilled: reconcile.Killed, vm.CauseCrashed: reconcile.Crashed, vm.CauseHost: reconcile.HostBooted,
}

// settle notes that a desired state is done.
func (w *worker) settle(s *snapshot, d reconcile.Decision) {
	failure := ""
	if d.Failed {
		failure = d.Code + ": " + d.Reason
	}
	w.agent.mu.Lock()
	aim := s.aim(w.id)
	changed := !w.settled || w.aim != aim || w.failure != failure
	w.settled, w.aim, w.failure = true, aim, failure
	w.agent.mu.Unlock()
	if changed {
		w.agent.acknowledge()
	}
}

// report tells the state when it is another than the one told last. A guest that is gone has no report.
func (w *worker) report(ctx context.Context, s *snapshot, d reconcile.Decision) {
	w.agent.mu.Lock()
	w.state = d.State
	w.agent.mu.Unlock()
	if d.State == 0 {
		if w.reported != "" {
			w.agent.link.DeleteActual(host.SectionInstances, string(w.id))
			w.reported = ""
		}
		return
	}
	status := host.InstanceStatus{ID: w.id, State: d.State, Code: d.Code, Reason: truncate(d.Reason, host.MaxReasonBytes), RebootID: w.record.RebootID}
	if s != nil {
		status.Generation = s.instances[w.id].Generation
	}
	w.describe(ctx, &status)
	w.timed(&status)
	encoded := host.Encode(status)
	if string(encoded) == w.reported {
		return
	}
	w.reported = string(encoded)
	w.agent.link.ReportActual(host.SectionInstances, string(w.id), encoded)
	w.log.Info("state", "state", status.State.String(), "generation", status.Generation, "code", status.Code, "reason", status.Reason, "reach", status.Reach.String())
}

// describe adds what the machine tells.
func (w *worker) describe(ctx context.Context, status *host.InstanceStatus) {
	w.unheard = false
	if w.machine == nil {
		return
	}
	launched := w.machine.Spec()
	if status.State != host.VMPreparing && (status.State != host.VMFailed || w.attempted != status.Generation) {
		status.Generation = launched.Generation
	}
	if w.hasEnded() {
		status.ExitStatus = w.machine.Exit().Status
		return
	}
	now, err := w.machine.Status(ctx)
	status.StartedMs = now.Started.UnixMilli()
	status.Resets = now.Resets
	if err != nil && !w.hasEnded() { // the machine's process hangs: whether its guest runs cannot be told
		w.log.Warn("machine does not tell its state", "err", err)
		status.Reason, status.Reach = "machine does not answer", host.ReachImpaired
		return
	}
	if now.State == vm.StatePaused && status.State == host.VMRunning {
		status.Reason = fmt.Sprintf("machine is paused: %s", now.Detail)
	}
	status.Reach = w.reach(now)
	w.unheard = status.Reach == host.ReachInitializing
}

// reach judges the guest by its network. Where there is none to listen to, a guest that runs is reached.
func (w *worker) reach(now vm.Status) host.Reach {
	if now.State == vm.StatePaused || now.Panicked {
		return host.ReachImpaired
	}
	if w.agent.o.Network == nil || len(w.record.Interfaces) == 0 {
		return host.ReachOK
	}
	heard, err := w.agent.o.Network.LastHeard(w.record.Interfaces[0])
	if err != nil {
		w.log.Warn("guest's network is not read", "err", err)
	}
	return reconcile.Reach(now.Started, heard, time.Now())
}

// truncate cuts text to a limit in bytes without leaving half a character.
func truncate(s string, limit int) string { return strings.ToValidUTF8(s[:min(len(s), limit)], "") }
