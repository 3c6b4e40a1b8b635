package imagetest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// pollEvery is how often the console file is read: QEMU appends to it and tells nobody.
	pollEvery    = 20 * time.Millisecond
	commandLimit = 60 * time.Second
)

// Machine says what to boot. Either Kernel or Disk is set.
type Machine struct {
	Kernel, Initrd, Append string
	// Disk is a qcow2 overlay; see Overlay.
	Disk string
	// UEFI boots the disk by OVMF instead of SeaBIOS.
	UEFI bool
	// MemoryMiB is 160 by default, or 256 with UEFI.
	MemoryMiB int
	// Net is QEMU's -netdev user options after the id, for example "hostfwd=tcp:127.0.0.1:2222-:22"; "-" for no network.
	Net string
}

// VM is a running machine. Its methods fail the test instead of returning errors.
type VM struct {
	Dir     string
	Started time.Time

	t       testing.TB
	cmd     *exec.Cmd
	exited  chan struct{}
	qmp     net.Conn
	qmpIn   *bufio.Reader
	control net.Conn
	ctlIn   *bufio.Reader
	tag     int
}

// Overlay makes a qcow2 file of the given size on top of a raw image, which it leaves unchanged.
func Overlay(t testing.TB, base, format string, bytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "overlay.qcow2")
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", format, path, fmt.Sprint(bytes)).CombinedOutput()
	if err != nil {
		t.Fatalf("make overlay: %v: %s", err, out)
	}
	return path
}

// Start spawns QEMU. The test's end kills it.
func Start(t testing.TB, m Machine) *VM {
	t.Helper()
	program := NeedQEMU(t)
	dir, err := os.MkdirTemp("", "vm-") // t.TempDir is too long for a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	vm := &VM{Dir: dir, t: t, exited: make(chan struct{})}
	vm.cmd = exec.Command(program, vm.arguments(m)...)
	vm.cmd.Dir = dir
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(dir, "qemu.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	vm.cmd.Stdout, vm.cmd.Stderr = log, log
	vm.Started = time.Now()
	if err := vm.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = vm.cmd.Wait() // how it ended is in qemu.log
		close(vm.exited)
	}()
	t.Cleanup(vm.stop)
	return vm
}

// arguments is the command line. Formats are named: QEMU must not guess them.
func (vm *VM) arguments(m Machine) []string {
	memory := m.MemoryMiB
	if memory == 0 {
		memory = 160
		if m.UEFI {
			memory = 256
		}
	}
	args := []string{"-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,tb-size=32", "-smp", "1",
		"-m", fmt.Sprint(memory), "-display", "none",
		"-chardev", "file,id=con,path=console", "-serial", "chardev:con",
		"-chardev", "socket,id=ctl,path=control,server=on,wait=off", "-serial", "chardev:ctl",
		"-qmp", "unix:qmp,server=on,wait=off", "-device", "virtio-rng-pci"}
	if m.Net != "-" {
		netdev := "user,id=net0"
		if m.Net != "" {
			netdev += "," + m.Net
		}
		args = append(args, "-netdev", netdev, "-device", "virtio-net-pci,netdev=net0,romfile=")
	}
	if m.Kernel != "" {
		args = append(args, "-kernel", m.Kernel, "-initrd", m.Initrd, "-append", m.Append)
	}
	if m.Disk != "" {
		args = append(args, "-drive", "if=none,id=root,format=qcow2,file="+m.Disk, "-device", "virtio-blk-pci,drive=root,bootindex=0")
	}
	if m.UEFI {
		args = append(args, vm.firmware()...)
	}
	return args
}

// firmware gives the machine OVMF with variables of its own.
func (vm *VM) firmware() []string {
	const code, vars = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
	data, err := os.ReadFile(vars)
	if err != nil {
		vm.t.Skip("OVMF is not installed (Debian package ovmf)")
	}
	private := filepath.Join(vm.Dir, "vars.fd")
	if err := os.WriteFile(private, data, 0o600); err != nil {
		vm.t.Fatal(err)
	}
	return []string{"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,unit=1,format=raw,file=" + private}
}

func (vm *VM) stop() {
	if vm.t.Failed() {
		vm.t.Logf("console:\n%s\nqemu:\n%s", vm.Console(), vm.read("qemu.log"))
	}
	for _, conn := range []net.Conn{vm.qmp, vm.control} {
		if conn != nil {
			conn.Close()
		}
	}
	_ = vm.cmd.Process.Kill() // it may have ended by itself
	<-vm.exited
	os.RemoveAll(vm.Dir)
}

func (vm *VM) read(name string) string {
	text, err := os.ReadFile(filepath.Join(vm.Dir, name))
	if err != nil {
		return ""
	}
	return string(text)
}

// Console is everything the guest has printed.
func (vm *VM) Console() string { return vm.read("console") }

// Wait returns the console's text after the first occurrence of marker that lies beyond offset, and the offset behind
// it. It fails the test after limit, or when QEMU ends.
func (vm *VM) Wait(marker string, offset int, limit time.Duration) (rest string, after int) {
	vm.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(pollEvery) {
		ended := vm.ended()
		text := vm.Console()
		if i := strings.Index(text[min(offset, len(text)):], marker); i >= 0 {
			after = offset + i + len(marker)
			// The line may still be on its way; a marker is printed in one write with its line end.
			if line, _, whole := strings.Cut(text[after:], "\n"); whole {
				return strings.TrimRight(line, "\r"), after
			}
		}
		if ended || time.Now().After(deadline) {
			vm.t.Fatalf("console does not show %q after %.1f s (QEMU ended: %v)", marker, time.Since(vm.Started).Seconds(), ended)
		}
	}
}

func (vm *VM) ended() bool {
	select {
	case <-vm.exited:
		return true
	default:
		return false
	}
}

// WaitExit waits until QEMU has ended.
func (vm *VM) WaitExit(limit time.Duration) {
	vm.t.Helper()
	select {
	case <-vm.exited:
	case <-time.After(limit):
		vm.t.Fatalf("machine still runs after %s", limit)
	}
}

// Probe runs a command on the control port and returns the word "ok" or "fail" and the values. The command is tagged
// and follows an empty line, and the answer is looked for anywhere in a line: firmware leaves noise on the port at
// each boot, in both directions.
func (vm *VM) Probe(command string) (ok bool, values map[string]any) {
	vm.t.Helper()
	if vm.control == nil {
		vm.control = vm.dial("control")
		vm.ctlIn = bufio.NewReader(vm.control)
	}
	vm.tag++
	vm.write(vm.control, fmt.Sprintf("\n#t%d %s\n", vm.tag, command))
	vm.control.SetReadDeadline(time.Now().Add(commandLimit))
	for {
		line, err := vm.ctlIn.ReadString('\n')
		if err != nil {
			vm.t.Fatalf("probe %s: %v", command, err)
		}
		_, answer, mine := strings.Cut(strings.TrimSpace(line), fmt.Sprintf("#t%d ", vm.tag))
		if !mine {
			continue
		}
		word, text, _ := strings.Cut(answer, " ")
		if err := json.Unmarshal([]byte(text), &values); err != nil {
			vm.t.Fatalf("probe %s: answer %q: %v", command, line, err)
		}
		return word == "ok", values
	}
}

// MustProbe is Probe that fails the test unless the answer is ok.
func (vm *VM) MustProbe(command string) map[string]any {
	vm.t.Helper()
	ok, values := vm.Probe(command)
	if !ok {
		vm.t.Fatalf("probe %s: %v", command, values)
	}
	return values
}

// QMP runs a monitor command without arguments.
func (vm *VM) QMP(command string) {
	vm.t.Helper()
	if vm.qmp == nil {
		vm.qmp = vm.dial("qmp")
		vm.qmpIn = bufio.NewReader(vm.qmp)
		vm.QMP("qmp_capabilities")
	}
	vm.qmp.SetDeadline(time.Now().Add(commandLimit))
	vm.write(vm.qmp, fmt.Sprintf("{\"execute\":%q}\n", command))
	for {
		line, err := vm.qmpIn.ReadString('\n')
		if err != nil {
			vm.t.Fatalf("QMP %s: %v", command, err)
		}
		if strings.Contains(line, `"error"`) {
			vm.t.Fatalf("QMP %s: %s", command, line)
		}
		if strings.Contains(line, `"return"`) {
			return
		}
	}
}

func (vm *VM) write(conn net.Conn, text string) {
	vm.t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		vm.t.Fatal(err)
	}
}

// dial connects to a socket that QEMU makes when it starts.
func (vm *VM) dial(name string) net.Conn {
	vm.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", filepath.Join(vm.Dir, name))
		if err == nil {
			return conn
		}
		if ctx.Err() != nil || vm.ended() {
			vm.t.Fatalf("connect to %s: %v: %s", name, err, vm.read("qemu.log"))
		}
		time.Sleep(pollEvery)
	}
}
