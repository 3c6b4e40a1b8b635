package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// TestRunWithoutServer holds the agent's whole life with nothing above it: it takes its directory, refuses a second agent
// there, and leaves when it is told to.
func TestRunWithoutServer(t *testing.T) {
	t.Parallel()
	o := Options{ID: hostID, StateDir: filepath.Join(t.TempDir(), "state"), Driver: DriverFake}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	documents := filepath.Join(o.StateDir, documentFolder)
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // the agent says nothing to nobody
		if _, err := os.Stat(documents); err == nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("agent does not begin")
		}
	}
	if err := Run(ctx, o); !errors.Is(err, vm.ErrLocked) {
		t.Errorf("second agent: %v, want ErrLocked", err)
	}
	if err := Purge(ctx, o); !errors.Is(err, vm.ErrLocked) {
		t.Errorf("purge under an agent: %v, want ErrLocked", err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("agent does not leave")
	}
}

// TestPredecessorLetsGo: an agent that starts while the one before it is not quite dead takes over from it.
func TestPredecessorLetsGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	held, err := vm.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(5*lockPoll, func() { held.Close() })
	lock, err := lockState(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockState(ctx, dir); !errors.Is(err, vm.ErrLocked) {
		t.Errorf("a directory that stays locked: %v, want ErrLocked", err)
	}
}

func TestMeasure(t *testing.T) {
	o := Options{ID: hostID, StateDir: t.TempDir(), Zone: "z"}
	emulated, native := measure(o, vm.Capabilities{Accelerator: "tcg"}), measure(o, vm.Capabilities{Accelerator: "kvm"})
	if native.VCPUs < 1 || emulated.VCPUs != emulatedPerCPU*native.VCPUs || emulated.Zone != "z" {
		t.Errorf("measured %+v and %+v", emulated, native)
	}
	simulated := measure(o, vm.Capabilities{Accelerator: "fake", Simulated: true})
	if !simulated.Simulated || simulated.MemoryMiB != simulatedMiB {
		t.Errorf("simulated %+v", simulated)
	}
	o.VCPUs, o.MemoryMiB, o.DiskGiB = 3, 4, 5
	if got := measure(o, vm.Capabilities{Accelerator: "tcg"}); got.VCPUs != 3 || got.MemoryMiB != 4 || got.DiskGiB != 5 {
		t.Errorf("set by the operator, measured %+v", got)
	}
	if b := host.Encode(simulated); len(b) == 0 {
		t.Error("not encodable")
	}
}
