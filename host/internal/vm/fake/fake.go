// Package fake runs guests that exist only as records, for scale tests and for machines that can run no others.
//
// A World is the pretended machine: drivers come and go over it as agents do, and its guests go on. It passes the same
// conformance suite as the real driver and keeps the same directory, so that an agent cannot tell the two apart except
// by Capabilities.Simulated, which is shown wherever a user looks.
//
// The guests of a World that ended with its process are taken to have gone on: the next World finds their records.
//
// Deliberately absent: networks and disks. A tap is accepted and ignored.
package fake

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// Options shapes a World. The zero value starts guests at once and never fails.
type Options struct {
	StartDelay    time.Duration // from Start to a running guest
	PowerOffDelay time.Duration // from the power button to the guest's end
	// FailStart, if set, is asked before each start; an error is the start's.
	FailStart func(vm.Spec) error
}

// World is the machine that fake guests run on. It is safe for concurrent use.
type World struct {
	options Options

	mu     sync.Mutex
	guests map[string]*guest // by directory; those that run, and those that ended unseen
}

// NewWorld makes a machine with no guest.
func NewWorld(o Options) *World { return &World{options: o, guests: make(map[string]*guest)} }

// guest is what goes on whether or not anyone holds a handle. World.mu guards it.
type guest struct {
	boot    string // changes when the guest boots
	exit    *vm.Exit
	holder  *handle
	resets  int
	reboots int
	deaf    bool // ignores the power button
}

// Driver is one agent's view of a World.
type Driver struct{ world *World }

var _ vm.Driver = (*Driver)(nil)

// Driver makes a driver over the world's guests.
func (w *World) Driver() *Driver { return &Driver{w} }

// Probe implements vm.Driver.
func (d *Driver) Probe(context.Context) (vm.Capabilities, error) {
	return vm.Capabilities{Accelerator: "fake", Reason: "simulated: no guest really runs", CPUModel: "none", Version: "fake", Simulated: true}, nil
}

// Start implements vm.Driver.
func (d *Driver) Start(ctx context.Context, spec vm.Spec) (vm.VM, error) {
	h, err := d.world.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start guest %s: %w", spec.ID, err)
	}
	return h, nil
}

func (w *World) start(ctx context.Context, spec vm.Spec) (*handle, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := vm.Lock(spec.Dir)
	if err != nil {
		return nil, err
	}
	h, err := w.launch(ctx, spec, lock)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return h, nil
}

func (w *World) launch(ctx context.Context, spec vm.Spec, lock *os.File) (*handle, error) {
	if w.runs(spec.Dir) {
		return nil, vm.ErrRunning
	}
	if w.options.FailStart != nil {
		if err := w.options.FailStart(spec); err != nil {
			return nil, err
		}
	}
	spec.Token = rand.Text()
	if err := vm.WriteSpec(spec); err != nil {
		return nil, err
	}
	if err := vm.ClearRecords(spec.Dir); err != nil {
		return nil, err
	}
	select {
	case <-time.After(w.options.StartDelay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := vm.WriteProcess(spec.Dir, vm.Process{PID: os.Getpid(), BootID: vm.BootID(), Token: spec.Token}); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g := &guest{}
	w.guests[spec.Dir] = g
	w.bootGuest(spec.Dir, g)
	return w.hold(spec, g, lock), nil
}

// runs says whether the directory's guest lives: in this world, or in an earlier one whose record has no end.
func (w *World) runs(dir string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.guests[dir]; g != nil {
		return g.exit == nil
	}
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		return false
	}
	p, found := vm.ReadProcess(dir)
	_, ended := vm.ReadExit(dir, spec.Generation)
	return found && !ended && p.Token == spec.Token && p.BootID == vm.BootID()
}

// Adopt implements vm.Driver.
func (d *Driver) Adopt(_ context.Context, dir string) (vm.VM, error) {
	h, err := d.world.adopt(dir)
	if err != nil {
		return nil, fmt.Errorf("adopt guest in %s: %w", dir, err)
	}
	return h, nil
}

func (w *World) adopt(dir string) (*handle, error) {
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		return nil, err
	}
	lock, err := vm.Lock(dir)
	if err != nil {
		return nil, err
	}
	alive := w.runs(dir)
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[dir]
	switch {
	case g == nil && alive:
		g = &guest{boot: rand.Text()}
		w.guests[dir] = g
	case g == nil && neverRan(dir, spec):
		lock.Close()
		return nil, vm.ErrNeverRan
	case g == nil:
		g = &guest{exit: recordedExit(dir, spec)}
	}
	return w.hold(spec, g, lock), nil
}

// neverRan says whether the agent died between the record of a launch and its guest's first moment.
func neverRan(dir string, spec vm.Spec) bool {
	p, found := vm.ReadProcess(dir)
	_, ended := vm.ReadExit(dir, spec.Generation)
	return !ended && (!found || p.Token != spec.Token)
}

// recordedExit is how a guest of an earlier world ended.
func recordedExit(dir string, spec vm.Spec) *vm.Exit {
	if exit, found := vm.ReadExit(dir, spec.Generation); found {
		return &exit
	}
	cause := vm.CauseCrashed
	if p, found := vm.ReadProcess(dir); found && p.BootID != vm.BootID() {
		cause = vm.CauseHost
	}
	return &vm.Exit{Generation: spec.Generation, Cause: cause, Status: vm.StatusUnknown, Reason: "guest ended while no agent watched it", At: time.Now().UTC()}
}

// hold makes the handle of a guest. The caller holds w.mu.
func (w *World) hold(spec vm.Spec, g *guest, lock *os.File) *handle {
	h := &handle{world: w, guest: g, spec: spec, lock: lock, done: make(chan struct{}), changes: make(chan struct{}, 1)}
	g.holder = h
	if g.exit != nil {
		h.ended(*g.exit)
	}
	return h
}

// bootGuest gives a guest a new life. The caller holds w.mu.
func (w *World) bootGuest(dir string, g *guest) {
	g.boot = rand.Text()
	log, err := os.OpenFile(vm.ConsolePath(dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return // a guest does not fail because its console does
	}
	defer log.Close()
	fmt.Fprintf(log, "simulated guest: no machine runs behind this console\nboot %s\n", g.boot)
}

// end ends the guest of a directory. It is nothing when it has ended.
func (w *World) end(dir string, cause vm.Cause, status int, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[dir]
	if g == nil || g.exit != nil {
		return
	}
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		return // its directory is gone, and so is it
	}
	g.exit = &vm.Exit{Generation: spec.Generation, Cause: cause, Status: status, Reason: reason, At: time.Now().UTC()}
	if g.holder != nil {
		g.holder.ended(*g.exit)
	}
}

// restart boots a running guest anew, counted by count.
func (w *World) restart(dir string, count func(*guest)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[dir]
	if g == nil || g.exit != nil {
		return
	}
	count(g)
	w.bootGuest(dir, g)
	if g.holder != nil {
		g.holder.notify()
	}
}

// ErrNoGuest: nothing runs in the directory.
var ErrNoGuest = errors.New("no guest runs there")

// Boot is a word that changes each time the guest boots.
func (w *World) Boot(dir string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.guests[dir]; g != nil && g.exit == nil {
		return g.boot, nil
	}
	return "", ErrNoGuest
}

// Crash ends a guest as the loss of its process would.
func (w *World) Crash(dir string) { w.end(dir, vm.CauseCrashed, -9, "crash was injected") }

// PowerOff ends a guest as its own software would.
func (w *World) PowerOff(dir string) {
	w.end(dir, vm.CausePowerOff, 0, "the guest switched itself off")
}

// Reset restarts a guest as its own software would.
func (w *World) Reset(dir string) { w.restart(dir, func(g *guest) { g.resets++ }) }

// IgnorePowerButton makes a guest deaf to the power button from now on.
func (w *World) IgnorePowerButton(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.guests[dir]; g != nil {
		g.deaf = true
	}
}
