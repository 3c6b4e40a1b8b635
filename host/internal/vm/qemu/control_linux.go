package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/qmp"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

var errNoMonitor = errors.New("monitor is not connected")

// Spec implements vm.VM.
func (m *machine) Spec() vm.Spec { return m.spec }

// Done implements vm.VM.
func (m *machine) Done() <-chan struct{} { return m.done }

// Changes implements vm.VM.
func (m *machine) Changes() <-chan struct{} { return m.changes }

// Exit implements vm.VM.
func (m *machine) Exit() vm.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit
}

// Status implements vm.VM.
func (m *machine) Status(ctx context.Context) (vm.Status, error) {
	s := m.snapshot()
	if m.hasEnded() {
		s.State = vm.StateEnded
		return s, nil
	}
	s.PID = m.process.PID
	var answer runStatus
	if err := m.command(ctx, "query-status", &answer); err != nil {
		if m.hasEnded() {
			s.State, s.PID = vm.StateEnded, 0
			return s, nil
		}
		return s, fmt.Errorf("query status of guest %s: %w", m.spec.ID, err)
	}
	s.State, s.Detail = vm.StatePaused, answer.Status
	switch answer.Status {
	case "running", "shutdown", "prelaunch": // the last two pass: on the way down, or on the way up
		s.State = vm.StateRunning
	}
	return s, nil
}

func (m *machine) snapshot() vm.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return vm.Status{Started: m.started, Resets: m.resets, Reboots: m.reboots, Panicked: m.panicked}
}

func (m *machine) hasEnded() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// command runs a monitor command on a live machine.
func (m *machine) command(ctx context.Context, name string, result any) error {
	if m.hasEnded() {
		return vm.ErrEnded
	}
	monitor := m.client()
	if monitor == nil {
		return errNoMonitor
	}
	err := monitor.Execute(ctx, name, nil, result)
	if errors.Is(err, qmp.ErrClosed) && m.hasEnded() {
		return vm.ErrEnded
	}
	return err
}

// PowerDown implements vm.VM.
func (m *machine) PowerDown(ctx context.Context) error {
	if err := m.command(ctx, "system_powerdown", nil); err != nil {
		return fmt.Errorf("power down guest %s: %w", m.spec.ID, err)
	}
	return nil
}

// Reset implements vm.VM.
func (m *machine) Reset(ctx context.Context) error {
	if err := m.command(ctx, "system_reset", nil); err != nil {
		return fmt.Errorf("reset guest %s: %w", m.spec.ID, err)
	}
	return nil
}

// Reboot implements vm.VM. The intent is on disk before the button is pressed, so that an agent that takes over between
// the guest's power-off and its new start does not take it for stopped.
func (m *machine) Reboot(ctx context.Context, patience time.Duration) error {
	if m.hasEnded() {
		return fmt.Errorf("reboot guest %s: %w", m.spec.ID, vm.ErrEnded)
	}
	if err := vm.SetRebooting(m.spec.Dir, true); err != nil {
		return fmt.Errorf("reboot guest %s: %w", m.spec.ID, err)
	}
	m.mu.Lock()
	m.rebooting = true
	m.mu.Unlock()
	m.resetAfter(ctx, patience)
	if err := m.command(ctx, "system_powerdown", nil); err != nil {
		return fmt.Errorf("reboot guest %s: %w", m.spec.ID, err)
	}
	return nil
}

// resetAfter resets the machine unless the reboot under way has finished by then. It outlives the caller's ctx.
func (m *machine) resetAfter(ctx context.Context, patience time.Duration) {
	time.AfterFunc(patience, func() {
		m.mu.Lock()
		due := m.rebooting && !m.restarting
		m.restarting = m.restarting || due
		m.mu.Unlock()
		if !due {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), qmp.CommandTimeout)
		defer cancel()
		if err := m.command(ctx, "system_reset", nil); err != nil && !m.hasEnded() {
			m.log.Warn("reboot did not finish", "instance", m.spec.ID, "err", err)
		}
	})
}

// Kill implements vm.VM.
func (m *machine) Kill(ctx context.Context) error {
	if m.hasEnded() {
		return nil
	}
	m.mu.Lock()
	m.killing = true
	m.mu.Unlock()
	m.flushConsole(ctx)
	polite, cancel := context.WithTimeout(ctx, quitPatience)
	defer cancel()
	if m.command(polite, "quit", nil) == nil {
		select {
		case <-m.done:
			return nil
		case <-polite.Done():
		}
	}
	if err := m.process.Kill(); err != nil && !m.hasEnded() {
		return fmt.Errorf("kill guest %s: %w", m.spec.ID, err)
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill guest %s: %w", m.spec.ID, ctx.Err())
	}
}
