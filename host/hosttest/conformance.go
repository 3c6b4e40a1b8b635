package hosttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Subject is a driver under test and the hands that reach its guests from outside.
type Subject interface {
	// Driver makes another driver over the same machines, as a restarted agent would.
	Driver(t *testing.T) vm.Driver
	// Spec is a small guest. The suite sets directory, id and generation.
	Spec(t *testing.T) vm.Spec
	// Booted waits until the guest's software runs, and returns a word that changes with each boot of the guest.
	Booted(t *testing.T, machine vm.VM) string
	// PowerOff and Reset make the guest do so by itself.
	PowerOff(t *testing.T, machine vm.VM)
	Reset(t *testing.T, machine vm.VM)
	// Crash ends the machine's process from outside.
	Crash(t *testing.T, machine vm.VM)
}

// Limits of the suite's waits. They are slack for a loaded machine, not promises, but for noticing a crash.
const (
	waitLimit  = 60 * time.Second
	crashLimit = time.Second
)

// RunDriverConformance holds a driver to the rules of package vm. All its guests are gone
// when it returns; as many live at once as go test runs tests in parallel.
func RunDriverConformance(t *testing.T, subject Subject) {
	s := suite{subject}
	for name, test := range map[string]func(*testing.T){
		"Lifecycle":         s.lifecycle,
		"PowerDownAndAgain": s.powerDownAndAgain,
		"Crash":             s.crash,
		"Adopt":             s.adopt,
		"AdoptEnded":        s.adoptEnded,
		"AdoptUnrecorded":   s.adoptUnrecorded,
		"NeverRan":          s.neverRan,
		"Reboot":            s.reboot,
		"Refusals":          s.refusals,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of a guest's life is waiting
			test(t)
		})
	}
}

type suite struct{ subject Subject }

func (s suite) spec(t *testing.T) vm.Spec {
	spec := s.subject.Spec(t)
	spec.Dir, spec.ID, spec.Generation = filepath.Join(t.TempDir(), "guest"), ids.New[ids.Instance](rand.Reader), 1
	return spec
}

func (s suite) start(t *testing.T, d vm.Driver, spec vm.Spec) vm.VM {
	t.Helper()
	machine, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	s.endWith(t, machine)
	return machine
}

// endWith kills a machine at the end of the test, whoever holds it then.
func (s suite) endWith(t *testing.T, machine vm.VM) {
	t.Cleanup(func() {
		machine.Release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), waitLimit)
		defer cancel()
		last, err := s.subject.Driver(t).Adopt(ctx, machine.Spec().Dir)
		if errors.Is(err, vm.ErrLocked) {
			return // a later handle ends it
		}
		if err == nil {
			err = last.Kill(ctx)
			last.Release()
		}
		if err != nil && !errors.Is(err, vm.ErrNoSpec) {
			t.Errorf("guest may be left behind: %v", err)
		}
	})
}

// lifecycle: start, status, console, kill.
func (s suite) lifecycle(t *testing.T) {
	d, spec := s.subject.Driver(t), s.spec(t)
	before := time.Now()
	machine := s.start(t, d, spec)
	s.subject.Booted(t, machine)
	status, err := machine.Status(t.Context())
	if err != nil || status.State != vm.StateRunning || status.Resets != 0 {
		t.Errorf("status %+v, %v; want running", status, err)
	}
	if status.Started.Before(before.Add(-2*time.Second)) || status.Started.After(time.Now().Add(2*time.Second)) {
		t.Errorf("started at %v, now is %v", status.Started, time.Now())
	}
	if b, err := machine.Console(t.Context(), 0); err != nil || len(b) == 0 || len(b) > vm.MaxConsoleBytes {
		t.Errorf("console of %d bytes, %v", len(b), err)
	}
	if b, err := machine.Console(t.Context(), 5); err != nil || len(b) != 5 {
		t.Errorf("console tail %q, %v; want 5 bytes", b, err)
	}
	if got := machine.Spec(); got.ID != spec.ID || got.Generation != 1 || got.MemoryMiB != spec.MemoryMiB {
		t.Errorf("Spec = %+v", got)
	}
	if err := machine.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended(t, machine, vm.CauseKilled, waitLimit)
	if err := machine.Kill(t.Context()); err != nil {
		t.Errorf("second kill: %v", err)
	}
	if err := machine.PowerDown(t.Context()); !errors.Is(err, vm.ErrEnded) {
		t.Errorf("power down of an ended guest: %v, want ErrEnded", err)
	}
	if status, err := machine.Status(t.Context()); err != nil || status.State != vm.StateEnded {
		t.Errorf("status %+v, %v; want ended", status, err)
	}
	if b, err := machine.Console(t.Context(), 0); err != nil || len(b) == 0 {
		t.Errorf("console after the end: %d bytes, %v", len(b), err)
	}
}

// ended waits for the end and checks its cause.
func ended(t *testing.T, machine vm.VM, want vm.Cause, limit time.Duration) {
	t.Helper()
	select {
	case <-machine.Done():
	case <-time.After(limit):
		t.Fatalf("end not noticed within %v", limit)
	}
	if got := machine.Exit(); got.Cause != want || got.Generation != machine.Spec().Generation || got.Reason == "" {
		t.Errorf("exit %+v, want cause %s", got, want)
	}
}

// powerDownAndAgain: the guest obeys the button, and a next generation starts in the same directory with the same disk.
func (s suite) powerDownAndAgain(t *testing.T) {
	d, spec := s.subject.Driver(t), s.spec(t)
	machine := s.start(t, d, spec)
	first := s.subject.Booted(t, machine)
	if err := machine.PowerDown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended(t, machine, vm.CausePowerOff, waitLimit)
	spec.Generation = 2
	if _, err := d.Start(t.Context(), spec); !errors.Is(err, vm.ErrLocked) {
		t.Errorf("start under an open handle: %v, want ErrLocked", err)
	}
	if err := machine.Release(); err != nil {
		t.Fatal(err)
	}
	again := s.start(t, d, spec)
	if second := s.subject.Booted(t, again); second == first {
		t.Error("the second start booted nothing")
	}
	if again.Spec().Generation != 2 {
		t.Errorf("generation %d, want 2", again.Spec().Generation)
	}
	if err := again.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended(t, again, vm.CauseKilled, waitLimit)
}

// crash: a process that ends from outside is noticed at once, and is told from a power-off by the guest.
func (s suite) crash(t *testing.T) {
	d, spec := s.subject.Driver(t), s.spec(t)
	machine := s.start(t, d, spec)
	s.subject.Booted(t, machine)
	s.subject.Crash(t, machine)
	ended(t, machine, vm.CauseCrashed, crashLimit)
	machine.Release()
	spec.Generation = 2
	again := s.start(t, d, spec)
	s.subject.Booted(t, again)
	s.subject.PowerOff(t, again)
	ended(t, again, vm.CausePowerOff, waitLimit)
}

// adopt: a new driver takes a running guest over, and the guest notices nothing.
func (s suite) adopt(t *testing.T) {
	machine := s.start(t, s.subject.Driver(t), s.spec(t))
	boot := s.subject.Booted(t, machine)
	before, err := machine.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := s.subject.Driver(t)
	dir := machine.Spec().Dir
	if _, err := other.Adopt(t.Context(), dir); !errors.Is(err, vm.ErrLocked) {
		t.Fatalf("adopt under an open handle: %v, want ErrLocked", err)
	}
	if err := machine.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Start(t.Context(), machine.Spec()); !errors.Is(err, vm.ErrRunning) {
		t.Fatalf("start over a running guest: %v, want ErrRunning", err)
	}
	adopted, err := other.Adopt(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	s.endWith(t, adopted)
	after, err := adopted.Status(t.Context())
	if err != nil || after.State != vm.StateRunning || after.PID != before.PID || !after.Started.Equal(before.Started) {
		t.Errorf("status %+v, %v; want as before, %+v", after, err, before)
	}
	if got := s.subject.Booted(t, adopted); got != boot {
		t.Error("the guest booted anew")
	}
	s.subject.Crash(t, adopted)
	ended(t, adopted, vm.CauseCrashed, crashLimit)
}

// adoptEnded: what happened while nobody watched is told afterwards.
func (s suite) adoptEnded(t *testing.T) {
	d := s.subject.Driver(t)
	for want, end := range map[vm.Cause]func(*testing.T, vm.VM){vm.CausePowerOff: s.subject.PowerOff, vm.CauseCrashed: s.subject.Crash} {
		machine := s.start(t, d, s.spec(t))
		s.subject.Booted(t, machine)
		if err := machine.Release(); err != nil {
			t.Fatal(err)
		}
		end(t, machine)
		adopted, err := s.subject.Driver(t).Adopt(t.Context(), machine.Spec().Dir)
		if err != nil {
			t.Fatal(err)
		}
		ended(t, adopted, want, waitLimit)
		adopted.Release()
		again, err := d.Adopt(t.Context(), machine.Spec().Dir)
		if err != nil {
			t.Fatal(err)
		}
		ended(t, again, want, waitLimit)
		again.Release()
	}
}

// adoptUnrecorded: the agent died between the start and the record of the process.
func (s suite) adoptUnrecorded(t *testing.T) {
	d := s.subject.Driver(t)
	machine := s.start(t, d, s.spec(t))
	boot := s.subject.Booted(t, machine)
	machine.Release()
	dir := machine.Spec().Dir
	if err := os.Remove(filepath.Join(dir, "process.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), machine.Spec()); !errors.Is(err, vm.ErrRunning) {
		t.Fatalf("start over an unrecorded guest: %v, want ErrRunning", err)
	}
	adopted, err := d.Adopt(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	s.endWith(t, adopted)
	if got := s.subject.Booted(t, adopted); got != boot {
		t.Error("the guest booted anew")
	}
}

// reboot: by the guest, by a reset, and through the power button; the machine stays the same one.
func (s suite) reboot(t *testing.T) {
	machine := s.start(t, s.subject.Driver(t), s.spec(t))
	boots := []string{s.subject.Booted(t, machine)}
	before, _ := machine.Status(t.Context())
	expect := func(what string, resets, reboots int) {
		t.Helper()
		changed(t, machine, func(now vm.Status) bool { return now.Resets == resets && now.Reboots == reboots })
		boots = append(boots, s.subject.Booted(t, machine))
		if boots[len(boots)-1] == boots[len(boots)-2] {
			t.Errorf("%s booted nothing", what)
		}
	}
	s.subject.Reset(t, machine)
	expect("reset by the guest", 1, 0)
	if err := machine.Reboot(t.Context(), waitLimit); err != nil {
		t.Fatal(err)
	}
	expect("reboot", 1, 1)
	if err := machine.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(waitLimit); s.subject.Booted(t, machine) == boots[2]; {
		if time.Now().After(deadline) {
			t.Fatal("reset booted nothing")
		}
	}
	after, err := machine.Status(t.Context())
	if err != nil || after.PID != before.PID || after.State != vm.StateRunning || after.Resets != 1 {
		t.Errorf("status %+v, %v; want running as %+v with one reset", after, err, before)
	}
}

// changed waits until the status is as wanted, looking whenever the machine says that it may be.
func changed(t *testing.T, machine vm.VM, as func(vm.Status) bool) {
	t.Helper()
	limit := time.After(waitLimit)
	for {
		now, err := machine.Status(t.Context())
		if err == nil && as(now) {
			return
		}
		select {
		case <-machine.Changes():
		case <-machine.Done():
			t.Fatalf("guest ended: %+v", machine.Exit())
		case <-limit:
			t.Fatalf("status is %+v, %v", now, err)
		}
	}
}

// refusals: nothing is started or adopted on a guess.
// neverRan: a launch that was recorded and never ran is no crash, and can be begun again.
func (s suite) neverRan(t *testing.T) {
	d, spec := s.subject.Driver(t), s.spec(t)
	spec.Token = rand.Text()
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := vm.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Adopt(t.Context(), spec.Dir); !errors.Is(err, vm.ErrNeverRan) {
		t.Fatalf("adopt of a launch that never ran: %v, want ErrNeverRan", err)
	}
	machine := s.start(t, d, spec)
	s.subject.Booted(t, machine)
}

func (s suite) refusals(t *testing.T) {
	d := s.subject.Driver(t)
	for name, spoil := range map[string]func(*vm.Spec){
		"relative directory": func(spec *vm.Spec) { spec.Dir = "guest" },
		"id is a path":       func(spec *vm.Spec) { spec.ID = "../x" },
		"no generation":      func(spec *vm.Spec) { spec.Generation = 0 },
		"nothing to boot":    func(spec *vm.Spec) { spec.Direct, spec.Disk = nil, vm.Disk{} },
		"image of no format": func(spec *vm.Spec) { spec.Disk = vm.Disk{Base: "/dev/null", SizeBytes: 512} },
	} {
		spec := s.spec(t)
		spoil(&spec)
		if machine, err := d.Start(t.Context(), spec); err == nil {
			s.endWith(t, machine)
			t.Errorf("%s: started", name)
		}
	}
	if _, err := d.Adopt(t.Context(), t.TempDir()); !errors.Is(err, vm.ErrNoSpec) {
		t.Errorf("adopt of an empty directory: %v, want ErrNoSpec", err)
	}
	machine := s.start(t, d, s.spec(t))
	machine.Release()
	path := filepath.Join(machine.Spec().Dir, "spec.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.TrimSuffix(good, []byte("}\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Adopt(t.Context(), machine.Spec().Dir); !errors.Is(err, vm.ErrNoSpec) {
		t.Errorf("adopt with a damaged specification: %v, want ErrNoSpec", err)
	}
	if _, err := d.Start(t.Context(), machine.Spec()); !errors.Is(err, vm.ErrRunning) {
		t.Errorf("start with a damaged specification over a running guest: %v, want ErrRunning", err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
}
