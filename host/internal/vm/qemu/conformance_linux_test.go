package qemu_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/hosttest"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
)

// guestUID is the user that test guests run as when the tests are run by root.
const guestUID = 64100

// stateDir is shared by the package's tests, so that the self-test guest boots once.
var stateDir string

func TestMain(m *testing.M) {
	if dir := os.Getenv("NIMBREL_TEST_MANAGER"); dir != "" {
		manage(dir)
		return
	}
	dir, err := os.MkdirTemp("", "nimbrel-qemu-")
	if err != nil {
		panic(err)
	}
	stateDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func uid() int {
	if os.Geteuid() == 0 {
		return guestUID
	}
	return 0
}

// subject boots real guests and drives them through their second serial port.
type subject struct{}

func (subject) Driver(t *testing.T) vm.Driver {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
	d, err := qemu.New(qemu.Options{StateDir: stateDir, UID: uid()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (subject) Spec(t *testing.T) vm.Spec {
	t.Helper()
	boot := hosttest.Guest(t)
	return vm.Spec{VCPUs: 1, MemoryMiB: 96, UID: uid(), Control: true, Direct: &boot}
}

// ask sends one command to the guest and returns its answer. Several may ask one after another, from any process.
func ask(t *testing.T, machine vm.VM, command string) string {
	t.Helper()
	answer, err := askFor(t.Context(), machine, command)
	if err != nil {
		console, _ := machine.Console(t.Context(), 2048)
		t.Fatalf("%s: %v; console:\n%s", command, err, console)
	}
	return answer
}

func askFor(ctx context.Context, machine vm.VM, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := dialIn(ctx, machine.Spec().Dir, vm.ControlPath(machine.Spec().Dir))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// An earlier asker, or the boot, may have left half a line; the tag tells this answer from late ones.
	tag := rand.Text()
	if _, err := fmt.Fprintf(conn, "\n%s %s\n", tag, command); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, answer, found := strings.Cut(lines.Text(), tag+" "); found {
			return answer, nil
		}
	}
	return "", fmt.Errorf("no answer: %w", errors.Join(lines.Err(), ctx.Err()))
}

// dialIn connects to a socket in dir by a short name.
func dialIn(ctx context.Context, dir, path string) (net.Conn, error) {
	open, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", open.Fd(), filepath.Base(path))
	return (&net.Dialer{}).DialContext(ctx, "unix", short)
}

// Booted waits for the guest to answer. A serial port swallows what it is sent before the guest opened it, so the
// question is put again until there is an answer.
func (subject) Booted(t *testing.T, machine vm.VM) string {
	t.Helper()
	limit := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		answer, err := askFor(ctx, machine, "boot")
		cancel()
		if err == nil && len(answer) == 36 {
			return answer
		}
		if time.Now().After(limit) {
			console, _ := machine.Console(t.Context(), 4096)
			log, _ := os.ReadFile(vm.LogPath(machine.Spec().Dir))
			t.Fatalf("guest does not answer: %q, %v; console:\n%s\nmachine:\n%s", answer, err, console, log)
		}
	}
}

func tell(t *testing.T, machine vm.VM, command string) {
	t.Helper()
	conn, err := dialIn(t.Context(), machine.Spec().Dir, vm.ControlPath(machine.Spec().Dir))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "\nlast %s\n", command)
	// The port passes bytes on as the guest takes them: closing now could lose them. The guest's end ends the wait.
	conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	for b := make([]byte, 64); err == nil; {
		_, err = conn.Read(b)
	}
}

func (subject) PowerOff(t *testing.T, machine vm.VM) { t.Helper(); tell(t, machine, "poweroff") }
func (subject) Reset(t *testing.T, machine vm.VM)    { t.Helper(); tell(t, machine, "reset") }

func (subject) Crash(t *testing.T, machine vm.VM) {
	t.Helper()
	if err := syscall.Kill(recordedPID(t, machine.Spec().Dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func recordedPID(t *testing.T, dir string) int {
	t.Helper()
	p, found := vm.ReadProcess(dir)
	if !found {
		t.Fatalf("no process is recorded in %s", dir)
	}
	return p.PID
}

func TestConformance(t *testing.T) {
	hosttest.RunDriverConformance(t, subject{})
}
