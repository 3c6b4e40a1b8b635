package fake_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/hosttest"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
)

type subject struct{ world *fake.World }

func (s subject) Driver(*testing.T) vm.Driver { return s.world.Driver() }
func (subject) Spec(*testing.T) vm.Spec {
	return vm.Spec{VCPUs: 1, MemoryMiB: 96, Direct: &vm.DirectBoot{Kernel: "/none"}}
}

func (s subject) Booted(t *testing.T, machine vm.VM) string {
	t.Helper()
	boot, err := s.world.Boot(machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	return boot
}

func (s subject) PowerOff(_ *testing.T, machine vm.VM) { s.world.PowerOff(machine.Spec().Dir) }
func (s subject) Reset(_ *testing.T, machine vm.VM)    { s.world.Reset(machine.Spec().Dir) }
func (s subject) Crash(_ *testing.T, machine vm.VM)    { s.world.Crash(machine.Spec().Dir) }

func TestConformance(t *testing.T) {
	hosttest.RunDriverConformance(t, subject{fake.NewWorld(fake.Options{})})
}

func start(t *testing.T, w *fake.World) (vm.VM, error) {
	spec := subject{}.Spec(t)
	spec.Dir, spec.ID, spec.Generation = filepath.Join(t.TempDir(), "guest"), "i-00000000000000001", 1
	return w.Driver().Start(t.Context(), spec)
}

// TestSurvivesItsWorld restarts the whole process, as far as the fake can tell.
func TestSurvivesItsWorld(t *testing.T) {
	machine, err := start(t, fake.NewWorld(fake.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	machine.Release()
	d := fake.NewWorld(fake.Options{}).Driver()
	if _, err := d.Start(t.Context(), machine.Spec()); !errors.Is(err, vm.ErrRunning) {
		t.Errorf("start: %v, want ErrRunning", err)
	}
	adopted, err := d.Adopt(t.Context(), machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := adopted.Status(t.Context()); s.State != vm.StateRunning {
		t.Errorf("status %+v, want running", s)
	}
	adopted.Kill(t.Context())
	adopted.Release()
	again, err := fake.NewWorld(fake.Options{}).Driver().Adopt(t.Context(), machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	<-again.Done()
	if got := again.Exit(); got.Cause != vm.CauseKilled {
		t.Errorf("exit %+v, want killed", got)
	}
}

func TestInjection(t *testing.T) {
	boom := errors.New("boom")
	if _, err := start(t, fake.NewWorld(fake.Options{FailStart: func(vm.Spec) error { return boom }})); !errors.Is(err, boom) {
		t.Errorf("injected failure: %v", err)
	}
	w := fake.NewWorld(fake.Options{})
	machine, err := start(t, w)
	if err != nil {
		t.Fatal(err)
	}
	w.IgnorePowerButton(machine.Spec().Dir)
	machine.PowerDown(context.Background())
	select {
	case <-machine.Done():
		t.Error("a deaf guest obeyed")
	case <-time.After(50 * time.Millisecond):
	}
}
