package e2e

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A machine of its own is entered in two steps: the test starts its own binary in fresh namespaces (there it is process
// 1: it mounts, starts the binary once more, and reaps what the cloud's commands leave to it), and that runs the test.
const (
	initVariable   = "NIMBREL_E2E_INIT"
	insideVariable = "NIMBREL_E2E_INSIDE"
)

func isInit() bool { return os.Getenv(initVariable) != "" }

func inside() bool { return os.Getenv(insideVariable) != "" }

// runInside runs the calling test again in a machine of its own, with env added to the environment. When this process
// ends, however it ends, the kernel kills process 1 and with it everything else in there.
func runInside(t *testing.T, env ...string) {
	t.Helper()
	_, rest, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	pattern := "^" + t.Name() + "$"
	if rest != "" {
		pattern += "/" + rest
	}
	args := []string{"-test.run=" + pattern, "-test.v=true", "-test.timeout=" + flag.Lookup("test.timeout").Value.String()}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(append(os.Environ(), initVariable+"=1", binariesVariable+"="+binaries), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) {
		t.Skip("this user may not make namespaces: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		t.Log(lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in its own machine: %v", err)
	}
}

// initMain is process 1.
func initMain() int {
	if err := makeMachine(); err != nil {
		fmt.Fprintln(os.Stderr, "make a machine of its own:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), initVariable+"=", insideVariable+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case pid == cmd.Process.Pid:
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
	}
}

// makeMachine gives the namespaces what a freshly booted machine has: /proc and /sys of its own, an empty /run, loopback.
// The real control groups are put back into the new /sys; there is no private form of version 1's.
func makeMachine() error {
	const holder = "/run"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := forgetOthers(); err != nil {
		return err
	}
	for _, m := range []struct {
		what, where, kind string
		flags             uintptr
	}{
		{"tmpfs", holder, "tmpfs", 0},
		{"proc", "/proc", "proc", 0},
		{"/sys/fs/cgroup", holder, "", unix.MS_BIND | unix.MS_REC},
		{"sysfs", "/sys", "sysfs", 0},
		{holder, "/sys/fs/cgroup", "", unix.MS_MOVE},
		{"bpf", "/sys/fs/bpf", "bpf", 0},
	} {
		if err := unix.Mount(m.what, m.where, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.what, m.where, err)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}

// forgetOthers lets go of other clouds' namespaces and pins, which this copy of the mounts would keep alive, and whose end
// would show here.
func forgetOthers() error {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 2 && (f[2] == "nsfs" || f[2] == "bpf") {
			if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", f[1], err)
			}
		}
	}
	return nil
}
