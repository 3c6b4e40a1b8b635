package qemu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/qmp"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// Options configures a driver. StateDir is required.
type Options struct {
	Binary   string // QEMU's program; default "qemu-system-x86_64"
	StateDir string // keeps the accelerator's verdict
	// UID runs the self-test guest as this user, the way guests will run. 0 leaves it the agent's.
	UID int
	// CPU is the model that guests see: under KVM by default the machine's own, under emulation Nehalem (x86-64-v2).
	CPU      string
	UEFICode string // firmware; default Debian's package ovmf
	UEFIVars string // initial variables
	Log      *slog.Logger
	// Reached, for tests, is called as a start gets to each stage: "specified", "spawned", "recorded", "connected", "runs".
	Reached func(stage string)
}

func (o Options) withDefaults() Options {
	fill := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	fill(&o.Binary, "qemu-system-x86_64")
	fill(&o.UEFICode, "/usr/share/OVMF/OVMF_CODE_4M.fd")
	fill(&o.UEFIVars, "/usr/share/OVMF/OVMF_VARS_4M.fd")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Reached == nil {
		o.Reached = func(string) {}
	}
	return o
}

// Driver runs guests in QEMU. It is safe for concurrent use.
type Driver struct {
	options Options

	mu    sync.Mutex // held through the probe
	probe *probed
}

var _ vm.Driver = (*Driver)(nil)

// New makes a driver. Nothing is run before Probe or Start.
func New(o Options) (*Driver, error) {
	if o.StateDir == "" {
		return nil, errors.New("QEMU driver: no state directory")
	}
	return &Driver{options: o.withDefaults()}, nil
}

// Start implements vm.Driver.
func (d *Driver) Start(ctx context.Context, spec vm.Spec) (vm.VM, error) {
	m, err := d.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start guest %s: %w", spec.ID, err)
	}
	return m, nil
}

func (d *Driver) start(ctx context.Context, spec vm.Spec) (*machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	found, err := d.found(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := vm.Lock(spec.Dir)
	if err != nil {
		return nil, err
	}
	m, err := d.launch(ctx, spec, found, lock)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return m, nil
}

// launch runs the guest in a locked directory. The specification comes first: from then on no earlier record counts,
// and until the process is recorded, which is before the guest's first instruction, the guest has never run.
func (d *Driver) launch(ctx context.Context, spec vm.Spec, found *probed, lock *os.File) (m *machine, err error) {
	ran, err := refuseRunning(spec.Dir)
	if err != nil {
		return nil, err
	}
	if err := keepsDisk(spec, ran); err != nil {
		return nil, err
	}
	spec.Token = rand.Text()
	if err := vm.WriteSpec(spec); err != nil {
		return nil, err
	}
	d.options.Reached("specified")
	if err := vm.ClearRecords(spec.Dir); err != nil {
		return nil, err
	}
	if m, err = d.boot(ctx, spec, found, lock); err != nil {
		if clearErr := vm.ClearRecords(spec.Dir); clearErr != nil {
			return nil, errors.Join(err, clearErr)
		}
		return nil, err
	}
	return m, nil
}

// boot runs the guest of a specification. On error its process has ended.
func (d *Driver) boot(ctx context.Context, spec vm.Spec, found *probed, lock *os.File) (*machine, error) {
	open, err := d.options.open(spec)
	if err != nil {
		return nil, err
	}
	defer open.close()
	args := command(spec, found.accelerator, open.fds, found.panicDevice)
	child, err := d.options.spawn(spec, args, open.files)
	if err != nil {
		return nil, err
	}
	if err := found.cgroups.confine(spec, child.PID); err != nil {
		d.options.Log.Warn("guest runs without limits", "instance", spec.ID, "err", err)
	}
	open.close() // now, so that the monitor's end is the process's end
	m := newMachine(d.options.Log, spec, child.Handle, found.cgroups, lock)
	m.status = child.exitStatus
	if err := m.run(ctx, d.options.Reached); err != nil {
		words := lastWords(spec.Dir)
		child.end()
		found.cgroups.remove(spec.ID)
		if words != "" {
			err = fmt.Errorf("%w: %s", err, words)
		}
		return nil, err
	}
	return m, nil
}

// run connects to a fresh machine, lets its processors go and begins to watch it.
func (m *machine) run(ctx context.Context, reached func(stage string)) error {
	if err := m.connect(ctx); err != nil {
		return err
	}
	reached("connected")
	monitor := m.client()
	if err := monitor.Execute(ctx, "cont", nil, nil); err != nil {
		monitor.Close()
		return err
	}
	// An accelerator that cannot run the guest's code leaves the process alive and the machine paused.
	var status runStatus
	if err := monitor.Execute(ctx, "query-status", nil, &status); err != nil {
		monitor.Close()
		return err
	}
	if status.Status != "running" && status.Status != "shutdown" {
		monitor.Close()
		return fmt.Errorf("machine does not run: status %s", status.Status)
	}
	reached("runs")
	go m.watch(ctx, monitor)
	go m.reap()
	return nil
}

// refuseRunning makes sure that no process of an earlier start lives, recorded or not. ran says that there was one that
// may have executed its guest.
func refuseRunning(dir string) (ran bool, err error) {
	handle, err := findMachine(dir)
	switch {
	case err == nil:
		handle.Close()
		return false, vm.ErrRunning
	case errors.Is(err, vm.ErrGone), errors.Is(err, vm.ErrRebooted):
		return true, nil
	case errors.Is(err, vm.ErrNoSpec), errors.Is(err, vm.ErrNeverRan):
		return false, nil
	}
	return false, err
}

// keepsDisk refuses to start a guest that ran without the disk that it ran with: an empty one in its place would look like
// the guest's own, its content gone.
func keepsDisk(spec vm.Spec, ran bool) error {
	if !ran || spec.Disk.Base == "" {
		return nil
	}
	if _, err := os.Stat(vm.DiskPath(spec.Dir)); err != nil {
		return fmt.Errorf("the guest's disk is not where it was: put %s back, or terminate the instance: %w", vm.DiskPath(spec.Dir), err)
	}
	return nil
}

// findMachine opens the process that runs from dir: the recorded one, else one that carries the launched token. The
// record is looked at first, so that a damaged specification does not hide a running guest. A record of another token is
// of an earlier start. Errors: ErrGone and ErrRebooted, when it ran; ErrNeverRan; ErrNoSpec.
func findMachine(dir string) (*vm.Handle, error) {
	p, recorded := vm.ReadProcess(dir)
	ended := vm.ErrNeverRan
	if recorded {
		handle, err := vm.OpenProcess(p)
		if !errors.Is(err, vm.ErrGone) && !errors.Is(err, vm.ErrRebooted) {
			return handle, err
		}
		ended = err
	}
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		return nil, err
	}
	if recorded && p.Token == spec.Token {
		return nil, ended
	}
	p, err = vm.FindProcess(spec.Token)
	if errors.Is(err, vm.ErrGone) {
		return nil, vm.ErrNeverRan
	}
	if err != nil {
		return nil, err
	}
	if err := vm.WriteProcess(dir, p); err != nil {
		return nil, err
	}
	return vm.OpenProcess(p)
}

// Adopt implements vm.Driver.
func (d *Driver) Adopt(ctx context.Context, dir string) (vm.VM, error) {
	m, err := d.adopt(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("adopt guest in %s: %w", dir, err)
	}
	return m, nil
}

func (d *Driver) adopt(ctx context.Context, dir string) (*machine, error) {
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		return nil, err
	}
	lock, err := vm.Lock(dir)
	if err != nil {
		return nil, err
	}
	handle, err := findMachine(dir)
	if _, ended := vm.ReadExit(dir, spec.Generation); errors.Is(err, vm.ErrNeverRan) && ended {
		err = vm.ErrGone // its process's record was lost
	}
	groups, _ := findCgroups() // Probe says why there are none
	m := newMachine(d.options.Log, spec, handle, groups, lock)
	switch {
	case errors.Is(err, vm.ErrGone):
		m.ended(vm.Exit{Cause: vm.CauseCrashed, Status: vm.StatusUnknown, Reason: "machine's process ended while no agent watched it"})
		return m, nil
	case errors.Is(err, vm.ErrRebooted):
		m.ended(vm.Exit{Cause: vm.CauseHost, Status: vm.StatusUnknown, Reason: "the host booted anew"})
		return m, nil
	case err != nil:
		lock.Close()
		return nil, err
	}
	// Again: the agent that spawned it may have died before.
	if err := groups.confine(spec, handle.PID); err != nil {
		m.log.Warn("guest runs without limits", "instance", spec.ID, "err", err)
	}
	go m.reap()
	m.resume(ctx)
	return m, nil
}

// resume reconnects to an adopted machine. A monitor that does not answer is no reason to give a running guest up: the
// watch goes on trying, and the process's end is seen without it.
func (m *machine) resume(ctx context.Context) {
	prompt, cancel := context.WithTimeout(ctx, adoptPatience)
	defer cancel()
	if err := m.connect(prompt); err != nil {
		m.log.Warn("monitor does not answer", "instance", m.spec.ID, "err", err)
		go m.watch(ctx, nil)
		return
	}
	m.synchronize(ctx, m.client())
	go m.watch(ctx, m.client())
}

// dial connects to a monitor's socket.
func dial(ctx context.Context, path string) (*qmp.Client, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := (&net.Dialer{Timeout: qmp.CommandTimeout}).DialContext(ctx, "unix", shortPath(dir, path))
	if err != nil {
		return nil, fmt.Errorf("dial monitor: %w", err)
	}
	return qmp.New(ctx, conn)
}

// adoptPatience is how long an adoption waits for the monitor. The agent reports nothing as all there is before it has
// adopted every guest, and one machine that hangs must not hold that up.
const adoptPatience = 5 * time.Second

// redialAfter is the pause before a broken monitor connection is tried again.
const redialAfter = 2 * time.Second
