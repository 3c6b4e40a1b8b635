package fake

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// handle is one agent's hold on a guest. World.mu guards what changes.
type handle struct {
	world   *World
	guest   *guest
	spec    vm.Spec
	lock    *os.File // nil once released
	exit    vm.Exit
	done    chan struct{}
	changes chan struct{}
}

var _ vm.VM = (*handle)(nil)

// ended tells the holder. The caller holds World.mu.
func (h *handle) ended(exit vm.Exit) {
	h.exit = exit
	vm.WriteExit(h.spec.Dir, exit) // the world remembers it too; the record is for the next world
	close(h.done)
	h.notify()
}

func (h *handle) notify() {
	select {
	case h.changes <- struct{}{}:
	default:
	}
}

func (h *handle) Spec() vm.Spec            { return h.spec }
func (h *handle) Done() <-chan struct{}    { return h.done }
func (h *handle) Changes() <-chan struct{} { return h.changes }

func (h *handle) Exit() vm.Exit {
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	return h.exit
}

func (h *handle) hasEnded() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

func (h *handle) Status(context.Context) (vm.Status, error) {
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	s := vm.Status{State: vm.StateRunning, Detail: "simulated", Started: vm.StartedAt(h.spec.Dir), Resets: h.guest.resets, Reboots: h.guest.reboots}
	if h.hasEnded() {
		s.State = vm.StateEnded
	}
	return s, nil
}

func (h *handle) PowerDown(context.Context) error {
	if h.hasEnded() {
		return fmt.Errorf("power down guest %s: %w", h.spec.ID, vm.ErrEnded)
	}
	h.pressButton(func() { h.world.PowerOff(h.spec.Dir) })
	return nil
}

// pressButton does what the button asks for after the guest's own time, unless the guest is deaf.
func (h *handle) pressButton(obey func()) {
	h.world.mu.Lock()
	deaf := h.guest.deaf
	h.world.mu.Unlock()
	if deaf {
		return
	}
	time.AfterFunc(h.world.options.PowerOffDelay, obey)
}

func (h *handle) Reboot(_ context.Context, patience time.Duration) error {
	if h.hasEnded() {
		return fmt.Errorf("reboot guest %s: %w", h.spec.ID, vm.ErrEnded)
	}
	before, _ := h.world.Boot(h.spec.Dir)
	again := func() {
		if now, _ := h.world.Boot(h.spec.Dir); now == before {
			h.world.restart(h.spec.Dir, func(g *guest) { g.reboots++ })
		}
	}
	h.pressButton(again)
	time.AfterFunc(patience, again)
	return nil
}

func (h *handle) Reset(context.Context) error {
	if h.hasEnded() {
		return fmt.Errorf("reset guest %s: %w", h.spec.ID, vm.ErrEnded)
	}
	h.world.restart(h.spec.Dir, func(*guest) {})
	return nil
}

func (h *handle) Kill(context.Context) error {
	h.world.end(h.spec.Dir, vm.CauseKilled, 0, "killed")
	return nil
}

func (h *handle) Console(_ context.Context, tailBytes int) ([]byte, error) {
	return vm.ReadConsole(h.spec.Dir, tailBytes)
}

func (h *handle) FollowConsole(ctx context.Context, tailBytes int, w io.Writer) error {
	return vm.FollowConsole(ctx, h.spec.Dir, tailBytes, w, h.done)
}

func (h *handle) Release() error {
	h.world.mu.Lock()
	lock := h.lock
	h.lock = nil
	if h.guest.holder == h {
		h.guest.holder = nil
	}
	ended := h.guest.exit != nil
	if ended && h.world.guests[h.spec.Dir] == h.guest {
		delete(h.world.guests, h.spec.Dir) // its record tells the rest
	}
	h.world.mu.Unlock()
	if lock == nil {
		return nil
	}
	return lock.Close()
}
