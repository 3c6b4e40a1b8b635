package qemu_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
)

// manage is the life of a manager in a process of its own: it starts the guest whose specification lies in dir, or
// adopts it, says so, and then waits to be killed.
func manage(dir string) {
	d, err := qemu.New(qemu.Options{StateDir: os.Getenv("NIMBREL_TEST_STATE"), UID: uid()})
	if err == nil {
		if _, started := vm.ReadProcess(dir); started {
			_, err = d.Adopt(context.Background(), dir)
		} else {
			var spec vm.Spec
			if spec, err = vm.ReadSpec(dir); err == nil {
				_, err = d.Start(context.Background(), spec)
			}
		}
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("managing")
	select {}
}

// startManager runs a manager until it says that it manages the guest.
func startManager(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NIMBREL_TEST_MANAGER="+dir, "NIMBREL_TEST_STATE="+stateDir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "managing" {
		t.Fatalf("manager said %q, %v", line, err)
	}
	return cmd
}

// TestManagerKilled kills the managing process twice with SIGKILL. The guest keeps its process and its life: it goes on
// answering with no manager at all, and the next manager takes it over.
func TestManagerKilled(t *testing.T) {
	d, spec := subject{}.Driver(t), subject{}.Spec(t)
	if _, err := d.Probe(t.Context()); err != nil { // its verdict is kept for the managers
		t.Fatal(err)
	}
	spec.Dir, spec.ID, spec.Generation = filepath.Join(t.TempDir(), "guest"), "i-0123456789abcdef1", 1
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := vm.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	var pid int
	var boot string
	for round := range 3 {
		manager := startManager(t, spec.Dir)
		now := recordedPID(t, spec.Dir)
		if round == 0 {
			pid = now
			boot = bootOf(t, spec)
		}
		if now != pid || bootOf(t, spec) != boot {
			t.Fatalf("round %d: process %d, want %d undisturbed", round, now, pid)
		}
		manager.Process.Kill()
		manager.Wait()
		if bootOf(t, spec) != boot {
			t.Fatalf("round %d: the guest does not go on without a manager", round)
		}
	}
	begun := time.Now()
	machine, err := d.Adopt(t.Context(), spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("adopted in %v", time.Since(begun))
	defer machine.Release()
	if status, err := machine.Status(t.Context()); err != nil || status.PID != pid || status.State != vm.StateRunning {
		t.Errorf("status %+v, %v; want running as process %d", status, err, pid)
	}
	begun = time.Now()
	subject{}.Crash(t, machine)
	<-machine.Done()
	t.Logf("crash noticed in %v", time.Since(begun))
}

// bootOf asks a guest that nobody here holds.
func bootOf(t *testing.T, spec vm.Spec) string {
	t.Helper()
	return subject{}.Booted(t, &absent{spec: spec})
}

// absent is a guest's directory without a handle, for asking the guest itself.
type absent struct {
	vm.VM
	spec vm.Spec
}

func (a *absent) Spec() vm.Spec { return a.spec }
func (a *absent) Console(_ context.Context, n int) ([]byte, error) {
	return vm.ReadConsole(a.spec.Dir, n)
}
