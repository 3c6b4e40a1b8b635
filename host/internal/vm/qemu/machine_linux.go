package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/qmp"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

const (
	// quitPatience is how long Kill lets QEMU close its files before the process is killed.
	quitPatience = 2 * time.Second
	// restartPatience is how long a reboot that an earlier agent began is waited for before the machine is reset.
	restartPatience = 30 * time.Second
	trimEvery       = 5 * time.Second
	// resetEcho: the PC firmware resets the machine a second time, at once, when memory shows that it ran before.
	resetEcho = 2 * time.Second
)

// runStatus is the monitor's answer to query-status.
type runStatus struct {
	Status string `json:"status"`
}

// machine is a handle on one guest's process.
type machine struct {
	log     *slog.Logger
	spec    vm.Spec
	process *vm.Handle // nil when it had ended before it was adopted
	cgroups *cgroups
	status  func() int // the child's exit status; nil when the process is no child of this one

	done     chan struct{} // closed when exit is set
	released chan struct{}
	changes  chan struct{}

	taking    chan struct{} // holds a token while the console's ring is being read
	listened  chan struct{} // wakes keepConsole
	listeners atomic.Int32  // of FollowConsole

	mu         sync.Mutex // guards what follows; never held across a wait
	lock       *os.File
	monitor    *qmp.Client
	exit       vm.Exit
	started    time.Time
	poweredOff bool // the guest switched itself off
	killing    bool
	rebooting  bool      // Reboot is under way
	restarting bool      // a reset was asked for; the machine must be continued after it
	lastReset  time.Time // by QEMU's clock
	resets     int
	reboots    int
	panicked   bool
	stuck      bool // QEMU paused it because its disk could not be written
}

var _ vm.VM = (*machine)(nil)

func newMachine(log *slog.Logger, spec vm.Spec, process *vm.Handle, groups *cgroups, lock *os.File) *machine {
	return &machine{
		log: log, spec: spec, process: process, cgroups: groups, lock: lock, started: vm.StartedAt(spec.Dir),
		done: make(chan struct{}), released: make(chan struct{}), changes: make(chan struct{}, 1),
		taking: make(chan struct{}, 1), listened: make(chan struct{}, 1),
	}
}

// connect opens the agent's monitor.
func (m *machine) connect(ctx context.Context) error {
	monitor, err := dial(ctx, vm.AgentSocketPath(m.spec.Dir))
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.monitor = monitor
	return nil
}

func (m *machine) client() *qmp.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.monitor
}

// watch follows the monitor's events and keeps the connection, the console and its bound, until the end or the release,
// whatever becomes of the ctx of the call that began it.
func (m *machine) watch(ctx context.Context, monitor *qmp.Client) {
	go m.keepConsole(ctx)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	m.trim()
	var events <-chan qmp.Event
	redial := time.After(0)
	if monitor != nil {
		events, redial = monitor.Events(), nil
	}
	for {
		select {
		case event, open := <-events:
			if !open {
				events, redial = nil, time.After(redialAfter)
				continue
			}
			m.event(ctx, monitor, event)
			if monitor.Missed() {
				m.synchronize(ctx, monitor)
			}
		case <-redial:
			redial = time.After(redialAfter)
			if m.connect(ctx) == nil {
				monitor = m.client()
				events, redial = monitor.Events(), nil
				m.synchronize(ctx, monitor)
				m.notify()
			}
		case <-trim.C:
			m.trim()
			m.unstick(ctx, monitor)
		case <-m.done:
			return
		case <-m.released:
			return
		}
	}
}

// trim bounds what was logged of the guest and of its machine's process.
func (m *machine) trim() {
	if err := vm.TrimLogs(m.spec.Dir); err != nil {
		m.log.Warn("logs grow", "instance", m.spec.ID, "err", err)
	}
}

// event acts on what the monitor said.
func (m *machine) event(ctx context.Context, monitor *qmp.Client, event qmp.Event) {
	var data struct {
		Guest  bool   `json:"guest"`
		Action string `json:"action"`
	}
	if event.Data != nil && json.Unmarshal(event.Data, &data) != nil {
		return
	}
	switch event.Name {
	case "SHUTDOWN":
		if data.Guest {
			m.off(ctx, monitor)
		}
	case "RESET":
		m.wasReset(ctx, monitor, event.At, data.Guest)
	case "GUEST_PANICKED":
		m.update(func() { m.panicked = true })
	case "BLOCK_IO_ERROR":
		m.update(func() { m.stuck = m.stuck || data.Action == "stop" })
	case "RESUME":
		m.update(func() { m.stuck = false })
	case "STOP":
		m.update(func() {})
	}
}

// unstick lets a machine try again that QEMU has paused because its disk could not be written: the host's disk may have
// room by now. While it has none the machine is paused anew, and its guest notices nothing but the time.
func (m *machine) unstick(ctx context.Context, monitor *qmp.Client) {
	m.mu.Lock()
	stuck := m.stuck
	m.mu.Unlock()
	if stuck && monitor != nil {
		m.execute(ctx, monitor, "cont")
	}
}

// synchronize asks for the state and acts as if its event had just come.
func (m *machine) synchronize(ctx context.Context, monitor *qmp.Client) {
	var status runStatus
	if err := monitor.Execute(ctx, "query-status", nil, &status); err != nil {
		return // the connection has ended; watch dials again
	}
	m.mu.Lock()
	resume := vm.Rebooting(m.spec.Dir) && !m.rebooting
	m.rebooting = m.rebooting || resume
	m.mu.Unlock()
	switch status.Status {
	case "shutdown":
		m.off(ctx, monitor)
	case "io-error":
		m.update(func() { m.stuck = true })
		if resume {
			m.resetAfter(ctx, restartPatience)
		}
	case "prelaunch": // between the record and the first instruction, or between a reset and its continuation
		m.execute(ctx, monitor, "cont")
	default:
		if resume {
			m.resetAfter(ctx, restartPatience)
		}
	}
}

// off ends a machine whose guest switched it off, or starts it anew when that was a reboot's first half.
func (m *machine) off(ctx context.Context, monitor *qmp.Client) {
	m.mu.Lock()
	again := m.rebooting && !m.killing
	m.restarting = again
	m.poweredOff = !again
	m.mu.Unlock()
	if again {
		m.execute(ctx, monitor, "system_reset")
		return
	}
	m.flushConsole(ctx)
	// The record comes first: a process that is gone without one is a crash to whoever looks next.
	if err := vm.WriteExit(m.spec.Dir, m.powerOff()); err != nil {
		m.log.Error("exit is not recorded", "instance", m.spec.ID, "err", err)
	}
	m.execute(ctx, monitor, "quit")
}

func (m *machine) powerOff() vm.Exit {
	return vm.Exit{Generation: m.spec.Generation, Cause: vm.CausePowerOff, Reason: "the guest switched itself off", At: time.Now().UTC()}
}

// wasReset counts a restart by the guest, and finishes one that was asked for.
func (m *machine) wasReset(ctx context.Context, monitor *qmp.Client, at time.Time, guest bool) {
	m.mu.Lock()
	restarting, rebooting := m.restarting, m.rebooting
	echo := at.Sub(m.lastReset) < resetEcho
	m.restarting, m.rebooting, m.panicked, m.lastReset = false, false, false, at
	if rebooting {
		m.reboots++
	} else if guest && !echo {
		m.resets++
	}
	m.mu.Unlock()
	if restarting {
		m.execute(ctx, monitor, "cont")
	}
	if rebooting {
		if err := vm.SetRebooting(m.spec.Dir, false); err != nil {
			m.log.Error("reboot is not recorded as done", "instance", m.spec.ID, "err", err)
		}
	}
	m.notify()
}

// execute runs a command whose failure leaves nothing to do here: a broken connection is dialled again and the state asked for.
func (m *machine) execute(ctx context.Context, monitor *qmp.Client, command string) {
	if err := monitor.Execute(ctx, command, nil, nil); err != nil && !errors.Is(err, qmp.ErrClosed) {
		m.log.Warn("monitor command failed", "instance", m.spec.ID, "err", err)
	}
}

func (m *machine) update(change func()) {
	m.mu.Lock()
	change()
	m.mu.Unlock()
	m.notify()
}

func (m *machine) notify() {
	select {
	case m.changes <- struct{}{}:
	default:
	}
}

// reap waits for the process's end and says why it ended.
func (m *machine) reap() {
	if err := m.process.Wait(); err != nil {
		return // released
	}
	status := vm.StatusUnknown
	if m.status != nil {
		status = m.status()
	}
	m.mu.Lock()
	exit := vm.Exit{Cause: vm.CauseCrashed, Status: status, Reason: "machine's process ended by itself"}
	switch {
	case m.poweredOff:
		exit = m.powerOff()
		exit.Status = status
	case m.killing:
		exit.Cause, exit.Reason = vm.CauseKilled, "killed"
	default:
		if words := lastWords(m.spec.Dir); words != "" {
			exit.Reason += ": " + words
		}
	}
	m.mu.Unlock()
	m.ended(exit)
}

// ended records the end, unless an earlier record says more, and closes what is left.
func (m *machine) ended(exit vm.Exit) {
	exit.Generation, exit.At = m.spec.Generation, time.Now().UTC()
	if recorded, found := vm.ReadExit(m.spec.Dir, m.spec.Generation); found {
		recorded.Status = exit.Status
		exit = recorded
	} else if err := vm.WriteExit(m.spec.Dir, exit); err != nil {
		m.log.Error("exit is not recorded", "instance", m.spec.ID, "err", err)
	}
	vm.SetRebooting(m.spec.Dir, false)
	m.cgroups.remove(m.spec.ID)
	m.mu.Lock()
	m.exit = exit
	monitor := m.monitor
	m.mu.Unlock()
	if monitor != nil {
		monitor.Close()
	}
	if m.process != nil {
		m.process.Close()
	}
	close(m.done)
	m.notify()
}

// Release implements vm.VM.
func (m *machine) Release() error {
	m.mu.Lock()
	lock, monitor := m.lock, m.monitor
	m.lock = nil
	m.mu.Unlock()
	if lock == nil {
		return nil
	}
	close(m.released)
	m.awaitTake()
	if monitor != nil {
		monitor.Close()
	}
	if m.process != nil {
		m.process.Close()
	}
	return lock.Close()
}
