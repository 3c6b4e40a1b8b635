package qemu_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
)

func startGuest(t *testing.T, change func(*vm.Spec)) vm.VM {
	t.Helper()
	d, spec := subject{}.Driver(t), subject{}.Spec(t)
	spec.Dir, spec.ID, spec.Generation = filepath.Join(t.TempDir(), "guest"), "i-0123456789abcdef0", 1
	if change != nil {
		change(&spec)
	}
	machine, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		machine.Kill(context.Background())
		machine.Release()
	})
	return machine
}

// TestGuestSees boots a guest with a disk and looks at the machine from inside.
func TestGuestSees(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, append([]byte("original"), make([]byte, 1<<20-8)...), 0o600); err != nil {
		t.Fatal(err)
	}
	machine := startGuest(t, func(s *vm.Spec) {
		s.Disk = vm.Disk{Base: base, BaseFormat: "raw", SizeBytes: 3 << 30, Serial: "vol0123"}
		s.Product = "t3.micro"
	})
	subject{}.Booted(t, machine)
	console, err := machine.Console(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	uuid := qemu.UUID(machine.Spec().ID)
	if want := fmt.Sprintf("uuid=%s serial=%s vendor=Amazon EC2", uuid, uuid); !strings.HasPrefix(uuid, "ec2") || !bytes.Contains(console, []byte(want)) {
		t.Errorf("console does not say %q:\n%s", want, console)
	}
	if got := ask(t, machine, "disk"); got != fmt.Sprint(3<<30/512) {
		t.Errorf("disk of %s sectors, want %d: the grown size", got, 3<<30/512)
	}
	if got := ask(t, machine, "read"); got != "original" {
		t.Errorf("disk begins with %q", got)
	}
	if got := ask(t, machine, "write changed"); got != "done" {
		t.Errorf("write: %s", got)
	}
	if b, _ := os.ReadFile(base); !bytes.HasPrefix(b, []byte("original")) {
		t.Error("the shared image was written")
	}
	if err := machine.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	machine.Release()
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "check", "-f", "qcow2", vm.DiskPath(machine.Spec().Dir)).CombinedOutput(); err != nil {
		t.Errorf("overlay after a kill: %v\n%s", err, out)
	}
	spec := machine.Spec()
	spec.Generation = 2
	again, err := subject{}.Driver(t).Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Kill(context.Background()); again.Release() })
	subject{}.Booted(t, again)
	if got := ask(t, again, "read"); got != "changedc" {
		t.Errorf("disk of the next generation begins with %q", got)
	}
}

// TestConfinement looks at the machine's process from outside.
func TestConfinement(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: guests share the agent's user otherwise")
	}
	machine := startGuest(t, nil)
	pid := recordedPID(t, machine.Spec().Dir)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{
		"Uid": fmt.Sprintf("%d\t%[1]d\t%[1]d\t%[1]d", guestUID), "Gid": fmt.Sprintf("%d\t%[1]d\t%[1]d\t%[1]d", guestUID),
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "Seccomp": "2",
	} {
		if !strings.Contains(string(status), field+":\t"+want+"\n") {
			t.Errorf("%s is not %q:\n%s", field, want, grep(status, field))
		}
	}
	devices, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil || bytes.Count(devices, []byte(":")) != 1 || !bytes.Contains(devices, []byte("lo:")) {
		t.Errorf("network of the machine: %s, %v; want its own loopback alone", devices, err)
	}
	confined(t, pid)
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d, %v; want its own, %d", sid, err, pid)
	}
	info, err := os.Stat(machine.Spec().Dir)
	if err != nil || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("directory %v, %v; want the agent's alone", info, err)
	}
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	caps, err := subject{}.Driver(t).Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(caps.Degraded) == 0 && !bytes.Contains(groups, []byte("/nimbrel/i-0123456789abcdef0")) {
		t.Errorf("control groups:\n%s", groups)
	}
	// An agent that died right after the spawn had not put it into its group: the next one does.
	for _, path := range []string{"/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/cpu/cgroup.procs", "/sys/fs/cgroup/cgroup.procs"} {
		if err := os.WriteFile(path, []byte(fmt.Sprint(pid)), 0); err != nil && !os.IsNotExist(err) {
			t.Logf("%s: %v", path, err)
		}
	}
	machine.Release()
	machine, err = subject{}.Driver(t).Adopt(t.Context(), machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Release()
	if again, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); !bytes.Equal(again, groups) {
		t.Errorf("control groups after the adoption:\n%s, before:\n%s", again, groups)
	}
	machine.Kill(t.Context())
	found, _ := filepath.Glob("/sys/fs/cgroup/*/nimbrel/i-0123456789abcdef0")
	unified, _ := filepath.Glob("/sys/fs/cgroup/nimbrel/i-0123456789abcdef0")
	if len(found)+len(unified) != 0 {
		t.Errorf("control groups are left: %v %v", found, unified)
	}
}

// confined looks at what bounds a machine's process.
func confined(t *testing.T, pid int) {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Max core file size": "0 0", "Max open files": "1024 1024"} {
		line := grep(limits, name)
		if got := strings.Join(strings.Fields(strings.TrimPrefix(line, name))[:2], " "); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); err != nil || string(score) != "500\n" {
		t.Errorf("out-of-memory score %q, %v", score, err)
	}
	for _, path := range []string{"/sys/fs/cgroup/memory/nimbrel/i-0123456789abcdef0/memory.limit_in_bytes", "/sys/fs/cgroup/nimbrel/i-0123456789abcdef0/memory.max"} {
		limit, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(limit)) != fmt.Sprint((96+host.GuestOverheadMiB+96/20+96)<<20) {
			t.Errorf("memory limit is %s", limit)
		}
	}
}

func grep(b []byte, prefix string) string {
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

// TestHumanMonitorAnswers: a person has a monitor although the agent's serves one client only.
func TestHumanMonitorAnswers(t *testing.T) {
	machine := startGuest(t, nil)
	conn, err := dialIn(t.Context(), machine.Spec().Dir, vm.HumanSocketPath(machine.Spec().Dir))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 8)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != `{"QMP": ` {
		t.Errorf("greeting %q, %v", b, err)
	}
}

// TestConsoleIsBounded floods the console and holds that the tail is served and the log stays small.
func TestConsoleIsBounded(t *testing.T) {
	machine := startGuest(t, nil)
	subject{}.Booted(t, machine)
	for range 2 {
		if got := ask(t, machine, "flood"); got != "done" {
			t.Fatal(got)
		}
	}
	limit := time.Now().Add(time.Minute)
	for {
		var info unix.Stat_t
		if err := unix.Stat(vm.ConsolePath(machine.Spec().Dir), &info); err != nil {
			t.Fatal(err)
		}
		if info.Size > 2<<20 && info.Blocks*512 < info.Size-(512<<10) {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("console log of %d bytes uses %d", info.Size, info.Blocks*512)
		}
		time.Sleep(100 * time.Millisecond) // the trim is by time, and says nothing
	}
	if b, err := machine.Console(t.Context(), 0); err != nil || len(b) != vm.MaxConsoleBytes || !bytes.HasSuffix(bytes.TrimRight(b, "\r\n"), []byte("xxxx")) {
		t.Errorf("tail of %d bytes, %v", len(b), err)
	}
}

// TestConsoleWithoutAgent: while no agent runs, a guest that floods its console makes no file grow. The next agent finds
// the last that was said, also when the guest has switched itself off since.
func TestConsoleWithoutAgent(t *testing.T) {
	machine := startGuest(t, nil)
	subject{}.Booted(t, machine)
	if _, err := machine.Console(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	machine.Release()
	before := usedBy(t, machine.Spec().Dir)
	for range 3 {
		if got := ask(t, machine, "flood"); got != "done" {
			t.Fatal(got)
		}
	}
	if after := usedBy(t, machine.Spec().Dir); after != before {
		t.Errorf("the guest's directory grew from %d to %d bytes while no agent ran", before, after)
	}
	next, err := subject{}.Driver(t).Adopt(t.Context(), machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := next.Console(t.Context(), 0); err != nil || len(b) != vm.MaxConsoleBytes || !bytes.HasSuffix(bytes.TrimRight(b, "\r\n"), []byte("xxxx")) {
		t.Errorf("tail of %d bytes, %v", len(b), err)
	}
	next.Release()
	tell(t, next, "poweroff")
	last, err := subject{}.Driver(t).Adopt(t.Context(), machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Release()
	select {
	case <-last.Done():
	case <-time.After(time.Minute):
		t.Fatal("the guest switched itself off, and its machine has not ended")
	}
	if b, err := last.Console(t.Context(), 0); err != nil || !bytes.Contains(b, []byte("Power down")) {
		t.Errorf("console does not end with the guest's last words: %q, %v", b[max(0, len(b)-200):], err)
	}
}

// usedBy is how many bytes the files of a directory occupy.
func usedBy(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var info unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Name()), &info); err != nil {
			t.Fatal(err)
		}
		bytes += info.Blocks * 512
	}
	return bytes
}

// TestPanicIsSeen: a guest's kernel that gives up is told from one that restarts.
func TestPanicIsSeen(t *testing.T) {
	machine := startGuest(t, func(s *vm.Spec) { s.Direct.Cmdline = "console=ttyS0 panic=0 quiet" })
	subject{}.Booted(t, machine)
	tell(t, machine, "panic")
	console, _ := machine.Console(t.Context(), 0)
	if !bytes.Contains(console, []byte("Kernel panic")) {
		t.Errorf("no panic on the console:\n%s", console)
	}
	if status, err := machine.Status(t.Context()); err != nil || status.State != vm.StateRunning {
		t.Errorf("status %+v, %v; want the machine running on", status, err)
	}
}

// TestStartFailureLeavesNothing: a kernel that is none ends in an error that says why, and no process.
func TestStartFailureLeavesNothing(t *testing.T) {
	d, spec := subject{}.Driver(t), subject{}.Spec(t)
	spec.Dir, spec.ID, spec.Generation = filepath.Join(t.TempDir(), "guest"), "i-0123456789abcdef0", 1
	spec.Direct = &vm.DirectBoot{Kernel: os.DevNull}
	machine, err := d.Start(t.Context(), spec)
	if err == nil {
		machine.Kill(t.Context())
		t.Fatal("started without a kernel")
	}
	if !strings.Contains(err.Error(), "kernel") {
		t.Errorf("error does not say why: %v", err)
	}
	p, found := vm.ReadProcess(spec.Dir)
	if handle, err := vm.OpenProcess(p); found && err == nil {
		handle.Close()
		t.Error("a process is left")
	}
	if lock, err := vm.Lock(spec.Dir); err != nil {
		t.Errorf("the lock is left: %v", err)
	} else {
		lock.Close()
	}
}

// TestTap: the machine, in its own network namespace, uses a tap of the namespace it was opened in.
func TestTap(t *testing.T) {
	tap, err := openTap("nbtest0")
	if err != nil {
		t.Skip("no tap can be made here: ", err)
	}
	defer tap.Close()
	machine := startGuest(t, func(s *vm.Spec) {
		s.NICs = []vm.NIC{{MAC: [6]byte{2, 0, 0, 0, 0, 7}, Tap: tap, VnetHeader: true, MTU: 1450}}
	})
	tap.Close()
	subject{}.Booted(t, machine)
	if got := ask(t, machine, "nic"); got != "02:00:00:00:00:07" {
		t.Errorf("guest's card is %q", got)
	}
	if _, err := net.InterfaceByName("nbtest0"); err != nil {
		t.Errorf("tap while the machine runs: %v", err)
	}
	if err := machine.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName("nbtest0"); err == nil {
		t.Error("the tap outlived its machine")
	}
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// TestUEFI starts the other firmware over an empty disk and waits for its word on the console.
func TestUEFI(t *testing.T) {
	if _, err := os.Stat("/usr/share/OVMF/OVMF_CODE_4M.fd"); err != nil {
		t.Skip("no UEFI firmware (package ovmf)")
	}
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	machine := startGuest(t, func(s *vm.Spec) {
		s.Direct, s.Firmware, s.MemoryMiB = nil, vm.UEFI, 256
		s.Disk = vm.Disk{Base: base, BaseFormat: "raw", SizeBytes: 1 << 20}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said := &until{want: "BdsDxe", cancel: cancel}
	if err := machine.FollowConsole(ctx, 0, said); err != nil || !strings.Contains(said.text, said.want) {
		t.Errorf("firmware said %q, %v", said.text, err)
	}
}

// until collects what is written and cancels once it holds a word.
type until struct {
	want, text string
	cancel     context.CancelFunc
}

func (u *until) Write(p []byte) (int, error) {
	if u.text += string(p); strings.Contains(u.text, u.want) {
		u.cancel()
	}
	return len(p), nil
}
