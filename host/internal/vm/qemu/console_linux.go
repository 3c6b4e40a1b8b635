package qemu

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/qmp"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

const (
	// consolePart is how much of the ring one command takes: an agent that dies between the answer and the log's write has
	// lost so much.
	consolePart = 16 << 10
	// What the guest says is taken this soon while it talks or somebody listens, and this late at most.
	takeSoonest = 50 * time.Millisecond
	takeLatest  = 500 * time.Millisecond
	// lastTake bounds how long a reader, or the end of a machine, waits for what is still in the ring.
	lastTake = time.Second
)

// keepConsole moves what the guest says from the machine's ring to the console's log, until the end or the release.
func (m *machine) keepConsole(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	for pause := takeSoonest; ; {
		taken, err := m.takeConsole(ctx)
		var refused *qmp.CommandError
		switch {
		case errors.As(err, &refused): // a machine of an older agent: it writes the log itself
			return
		case err == nil && taken > 0 || m.listeners.Load() > 0:
			pause = takeSoonest
		default:
			pause = min(2*pause, takeLatest)
		}
		select {
		case <-time.After(pause):
		case <-m.listened:
		case <-m.done:
			return
		case <-m.released:
			return
		}
	}
}

// takeConsole appends what the ring holds to the console's log, at most a full ring, and says how much it was. One at a
// time, or the log would be out of order.
func (m *machine) takeConsole(ctx context.Context) (taken int, err error) {
	select {
	case m.taking <- struct{}{}:
		defer func() { <-m.taking }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case <-m.released: // the next agent's
		return 0, nil
	default:
	}
	monitor := m.client()
	for monitor != nil && taken < consoleRing {
		var text string
		if err := monitor.Execute(ctx, "ringbuf-read", consoleRead{"console", consolePart, "base64"}, &text); err != nil {
			return taken, err
		}
		part, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return taken, fmt.Errorf("read console's ring: %w", err)
		}
		if err := m.logConsole(part); err != nil {
			m.log.Warn("console is not logged", "instance", m.spec.ID, "err", err)
			return taken, err
		}
		if taken += len(part); len(part) < consolePart {
			break
		}
	}
	return taken, nil
}

// consoleRead are the arguments of ringbuf-read.
type consoleRead struct {
	Device string `json:"device"`
	Size   int    `json:"size"`
	Format string `json:"format"`
}

func (m *machine) logConsole(part []byte) error {
	if len(part) == 0 {
		return nil
	}
	file, err := os.OpenFile(vm.ConsolePath(m.spec.Dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(part)
	return errors.Join(err, file.Close())
}

// flushConsole takes what is left, for a reader or before the machine's end; one that does not answer has said its last.
func (m *machine) flushConsole(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastTake)
	defer cancel()
	_, _ = m.takeConsole(ctx) // what cannot be taken now is taken later, or is lost with the machine
}

// awaitTake waits for a take under way, which nobody else would get.
func (m *machine) awaitTake() {
	select {
	case m.taking <- struct{}{}:
		<-m.taking
	case <-time.After(lastTake):
	}
}

// Console implements vm.VM.
func (m *machine) Console(ctx context.Context, tailBytes int) ([]byte, error) {
	if !m.hasEnded() {
		m.flushConsole(ctx)
	}
	return vm.ReadConsole(m.spec.Dir, tailBytes)
}

// FollowConsole implements vm.VM.
func (m *machine) FollowConsole(ctx context.Context, tailBytes int, w io.Writer) error {
	m.listeners.Add(1)
	defer m.listeners.Add(-1)
	select {
	case m.listened <- struct{}{}:
	default: // it is about to look anyway
	}
	return vm.FollowConsole(ctx, m.spec.Dir, tailBytes, w, m.done)
}
