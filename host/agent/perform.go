package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/reconcile"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

const (
	killTimeout  = 15 * time.Second
	startTimeout = time.Minute
	// An image has imageTimeout, and a second for each imageRate bytes: a path slower than that is no path for images.
	imageTimeout = 5 * time.Minute
	imageRate    = 4 << 20
)

// perform does one step. What it did shows when the worker looks again.
func (w *worker) perform(ctx context.Context, step reconcile.Step, s *snapshot) error {
	switch step {
	case reconcile.Start:
		return w.start(ctx, s)
	case reconcile.PressButton:
		w.lastPress = time.Now()
		if w.pressedAt.IsZero() {
			w.pressedAt = w.lastPress
		}
		return ignoreEnded(w.machine.PowerDown(ctx))
	case reconcile.Kill:
		ctx, cancel := context.WithTimeout(ctx, killTimeout)
		defer cancel()
		return w.machine.Kill(ctx)
	case reconcile.Reboot:
		return w.reboot(ctx, s)
	case reconcile.Remove:
		return w.remove(ctx)
	}
	return nil
}

// ignoreEnded: a guest that ended meanwhile is what the next look is about.
func ignoreEnded(err error) error {
	if errors.Is(err, vm.ErrEnded) {
		return nil
	}
	return err
}

// reboot records the id first: a reboot may be lost with the agent, but not be done twice.
func (w *worker) reboot(ctx context.Context, s *snapshot) error {
	w.record.RebootID = s.instances[w.id].RebootID
	if err := w.record.write(w.dir); err != nil {
		return err
	}
	return ignoreEnded(w.machine.Reboot(ctx, reconcile.RebootPatience))
}

// startError is a failed start and how it is reported.
type startError struct {
	code string
	err  error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// errOvertaken ends a start that a newer document does not want any more.
var errOvertaken = errors.New("a newer document wants something else of the guest")

// start tries to run the wanted generation. A failure counts against the generation's attempts. While it waits for an
// image or for its turn, a newer document that wants something else ends it.
func (w *worker) start(ctx context.Context, s *snapshot) error {
	item := s.instances[w.id].Instance
	waiting, done := w.beginStart(ctx, s.instances[w.id])
	defer done()
	err := w.launch(waiting, &item, s)
	if context.Cause(waiting) == errOvertaken && err != nil {
		w.log.Info("start is given up", "err", err)
		return nil // the next look finds the newer document
	}
	if err == nil {
		w.attempts, w.pressedAt, w.lastPress = 0, time.Time{}, time.Time{}
		w.keepMilestones()
		return nil
	}
	if _, fenced := w.agent.mayStart(); ctx.Err() != nil || fenced != nil {
		return err // that is not the guest's fault
	}
	if w.attempted != item.Generation {
		w.attempted, w.attempts = item.Generation, 0
	}
	w.attempts++
	w.triedAt, w.code, w.reason = time.Now(), host.CodeInternal, err.Error()
	var coded *startError
	if errors.As(err, &coded) {
		w.code = coded.code
	}
	w.agent.failed.starts.Add(1)
	w.log.Warn("guest is not started", "attempt", w.attempts, "code", w.code, "err", err)
	return nil
}

// beginStart is the context of a start's waits.
func (w *worker) beginStart(ctx context.Context, item wantedInstance) (waiting context.Context, done func()) {
	waiting, cancel := context.WithCancelCause(ctx)
	w.agent.mu.Lock()
	w.starting, w.overtake = &item, cancel
	w.giveUpStart(w.agent.desired) // which may be newer than the snapshot that the start is from
	w.agent.mu.Unlock()
	return waiting, func() {
		w.agent.mu.Lock()
		w.starting, w.overtake = nil, nil
		w.agent.mu.Unlock()
		cancel(nil)
	}
}

// giveUpStart ends the start under way when s wants no machine of its generation. The caller holds agent.mu.
func (w *worker) giveUpStart(s *snapshot) {
	if w.starting == nil {
		return
	}
	item, present := s.instances[w.id]
	gone := !present && s.known && !s.unsure[w.id] && !s.orphans[w.id]
	if gone || present && (item.Power != host.PowerRun || item.Generation != w.starting.Generation) {
		w.overtake(errOvertaken)
	}
}

// launch makes everything a machine needs, in order: record, image, ports, machine.
func (w *worker) launch(ctx context.Context, item *host.Instance, s *snapshot) error {
	uid := w.record.UID
	if uid == 0 {
		var err error
		if uid, err = w.agent.users.next(); err != nil {
			return &startError{host.CodeCapacity, err}
		}
	}
	w.record = recordOf(item, uid)
	if err := w.record.write(w.dir); err != nil {
		return err
	}
	w.named = true
	w.agent.o.reached("named")
	w.holdPorts(item.Interfaces)
	image, err := w.image(ctx, item)
	if err != nil {
		return &startError{host.CodeImage, err}
	}
	w.times.ImageMs = time.Now().UnixMilli()
	w.letGo() // of the generation before
	nics, closeTaps, err := w.openTaps(ctx, item, s)
	defer closeTaps()
	if err != nil {
		return &startError{host.CodeNetwork, err}
	}
	w.agent.o.reached("ports")
	w.times.PortsMs = time.Now().UnixMilli()
	spec := vm.Spec{
		Dir: w.dir, ID: item.ID, Generation: item.Generation, VCPUs: item.VCPUs, MemoryMiB: item.MemoryMiB, Product: item.Type,
		Disk: vm.Disk{Base: image, BaseFormat: "raw", SizeBytes: uint64(item.RootDiskGiB) << 30, Serial: diskSerial(item)},
		NICs: nics, UID: uid, Firmware: firmware(item),
	}
	return w.boot(ctx, spec)
}

// boot starts the machine when there is a place for one more start.
func (w *worker) boot(ctx context.Context, spec vm.Spec) error {
	select {
	case w.agent.starts <- struct{}{}:
		defer func() { <-w.agent.starts }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, err := w.agent.mayStart() // once it has the place: a stand-down waits for all of them
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	machine, err := w.agent.driver.Start(ctx, spec)
	if err != nil {
		return err
	}
	w.hold(machine)
	return nil
}

// image brings the base image. Simulated hosts have no use for its bytes.
func (w *worker) image(ctx context.Context, item *host.Instance) (string, error) {
	if w.agent.o.Driver == DriverFake {
		return "/simulated/" + item.ImageSHA256, nil
	}
	ctx, cancel := context.WithTimeout(ctx, imageTimeout+time.Duration(item.ImageBytes/imageRate)*time.Second)
	defer cancel()
	path, err := w.agent.images.Ensure(ctx, item.ImageSHA256, item.ImageBytes)
	if err != nil {
		return "", err
	}
	return path, w.agent.images.Pin(item.ImageSHA256, filepath.Join(w.dir, baseFile))
}

func firmware(item *host.Instance) vm.Firmware {
	if item.UEFI {
		return vm.UEFI
	}
	return vm.BIOS
}

// diskSerial is the volume's id without its hyphen, as EC2 shows it, cut to what the device holds.
func diskSerial(item *host.Instance) string {
	serial := []byte{}
	for _, c := range []byte(item.RootVolume) {
		if c != '-' {
			serial = append(serial, c)
		}
	}
	return truncate(string(serial), 20)
}

// openTaps makes the instance's ports. The taps are to be closed once the machine has inherited them; ports of a start
// that failed are left for the next attempt, or for the removal.
func (w *worker) openTaps(ctx context.Context, item *host.Instance, s *snapshot) (nics []vm.NIC, closeTaps func(), err error) {
	closeTaps = func() {
		for _, nic := range nics {
			nic.Tap.Close()
		}
	}
	network := w.agent.o.Network
	if network == nil {
		return nil, closeTaps, nil
	}
	for _, id := range item.Interfaces {
		in, found := s.interfaces[id]
		if !found {
			return nics, closeTaps, fmt.Errorf("interface %s is not known here", id)
		}
		// A port of the generation before went with its machine; one of a failed attempt is in the way.
		if err := network.CloseTap(ctx, id); err != nil {
			return nics, closeTaps, err
		}
		tap, err := network.OpenTap(ctx, in, true)
		if err != nil {
			return nics, closeTaps, err
		}
		mtu := in.MTU
		if mtu == 0 {
			mtu = network.MTU()
		}
		nics = append(nics, vm.NIC{MAC: in.MAC, Tap: tap, VnetHeader: true, MTU: mtu})
	}
	return nics, closeTaps, nil
}

// remove takes everything of a terminated guest away: its ports, its directory, its user.
func (w *worker) remove(ctx context.Context) error {
	if w.agent.o.Network != nil {
		for _, id := range w.record.Interfaces {
			if err := w.agent.o.Network.CloseTap(ctx, id); err != nil {
				return fmt.Errorf("close port %s: %w", id, err)
			}
		}
	}
	w.letGo()
	if err := removeGuest(w.agent.o.StateDir, w.dir, w.record); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	w.agent.users.give(w.record.UID)
	w.holdPorts(nil)
	w.named, w.record = false, record{}
	return nil
}
