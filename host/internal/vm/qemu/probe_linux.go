package qemu

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

//go:generate selftest/build.sh

// selfTestSector boots, exercises the processor as a kernel would, and prints selfTestMarker. See selftest/boot.S.
//
//go:embed selftest/boot.bin
var selfTestSector []byte

const (
	selfTestMarker = "nimbrel-selftest: ok"
	// The limits are far beyond what a working accelerator takes (0.1 s under KVM, 0.4 s under TCG); the first is far below
	// what the kernel's instruction-by-instruction emulation takes.
	kvmTimeout = 10 * time.Second
	tcgTimeout = 30 * time.Second
	// selfTestDiskBytes: SeaBIOS refuses a disk that has no whole cylinder.
	selfTestDiskBytes = 1 << 20
)

// verdict is what the self-test found, kept for as long as the machine stays up.
type verdict struct {
	BootID      string      `json:"bootId"`
	Version     string      `json:"version"`
	Accelerator accelerator `json:"accelerator"`
	Reason      string      `json:"reason"` // why not KVM
}

// probed is what this machine can do.
type probed struct {
	accelerator  accelerator
	capabilities vm.Capabilities
	cgroups      *cgroups // nil when there are none
	panicDevice  bool
}

// Probe implements vm.Driver.
func (d *Driver) Probe(ctx context.Context) (vm.Capabilities, error) {
	found, err := d.found(ctx)
	if err != nil {
		return vm.Capabilities{}, err
	}
	return found.capabilities, nil
}

// found probes once. An error is not kept: what was missing may have been installed.
func (d *Driver) found(ctx context.Context) (*probed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.probe != nil {
		return d.probe, nil
	}
	found, err := d.options.probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("probe QEMU: %w", err)
	}
	d.probe = found
	return found, nil
}

func (o Options) probe(ctx context.Context) (*probed, error) {
	version, err := o.output(ctx, "--version")
	if err != nil {
		return nil, fmt.Errorf("%w: install Debian's package qemu-system-x86", err)
	}
	version, _, _ = strings.Cut(version, "\n")
	v, err := o.judge(ctx, version)
	if err != nil {
		return nil, err
	}
	devices, err := o.output(ctx, "-device", "help")
	if err != nil {
		return nil, err
	}
	found := &probed{accelerator: v.Accelerator, panicDevice: strings.Contains(devices, `"pvpanic-pci"`)}
	found.capabilities = vm.Capabilities{
		Accelerator: v.Accelerator.Name, Reason: v.Reason, CPUModel: v.Accelerator.CPU, Version: version,
	}
	degrade := func(what string) {
		found.capabilities.Degraded = append(found.capabilities.Degraded, what)
	}
	if os.Geteuid() != 0 {
		degrade("not root: guests share the agent's user and network namespace and have no limits")
		return found, nil
	}
	if found.cgroups, err = findCgroups(); err != nil {
		degrade("guests have no memory and processor limits: " + err.Error())
	}
	return found, nil
}

// output runs QEMU for what it says of itself.
func (o Options) output(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tcgTimeout)
	defer cancel()
	b, err := exec.CommandContext(ctx, o.Binary, args...).Output()
	return string(b), err
}

// judge chooses the accelerator by booting a guest on it, or recalls the verdict of this boot and QEMU.
func (o Options) judge(ctx context.Context, version string) (verdict, error) {
	path := filepath.Join(o.StateDir, "accelerator.json")
	var kept verdict
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &kept) == nil {
		same := kept.BootID == vm.BootID() && kept.BootID != "" && kept.Version == version
		if same && (o.CPU == "" || o.CPU == kept.Accelerator.CPU) {
			return kept, nil
		}
	}
	fresh := verdict{BootID: vm.BootID(), Version: version}
	fresh.Accelerator = accelerator{Name: "kvm", CPU: orDefault(o.CPU, "host")}
	if err := o.tryKVM(ctx, fresh.Accelerator); err != nil {
		fresh.Reason = err.Error()
		fresh.Accelerator = accelerator{Name: "tcg", CPU: orDefault(o.CPU, "Nehalem,+rdrand")}
		if err := o.selfTest(ctx, fresh.Accelerator, tcgTimeout); err != nil {
			return verdict{}, fmt.Errorf("no accelerator runs a guest: kvm: %s; tcg: %w", fresh.Reason, err)
		}
	}
	b, err := json.Marshal(fresh)
	if err == nil {
		err = os.MkdirAll(o.StateDir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(path, b, 0o600) // a torn file is no verdict, and the test is run again
	}
	return fresh, err
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func (o Options) tryKVM(ctx context.Context, a accelerator) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return errors.New("/dev/kvm is absent: processor without virtualization, or module not loaded")
	}
	return o.selfTest(ctx, a, kvmTimeout)
}

// selfTest boots the sector and waits for its marker. That /dev/kvm exists and opens is no proof: some nested
// hypervisors offer it and then cannot run a kernel's instructions.
func (o Options) selfTest(ctx context.Context, a accelerator, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	disk, err := selfTestDisk()
	if err != nil {
		return err
	}
	defer disk.Close()
	cmd := exec.CommandContext(ctx, o.Binary, selfTestCommand(a)...)
	words := &tripwire{cancel: cancel}
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{"LC_ALL=C"}, []*os.File{disk}
	cmd.Stderr = words
	cmd.SysProcAttr = confine(o.UID)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	passed := hasMarker(out)
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	cancel() // the guest halts and QEMU goes on
	cmd.Wait()
	switch {
	case passed:
		return nil
	case timedOut:
		return fmt.Errorf("self-test guest printed nothing within %v%s", timeout, firstLine(words.said.String()))
	}
	return fmt.Errorf("self-test guest ended early%s", firstLine(words.said.String()))
}

// tripwire keeps what QEMU says and ends the test when the kernel gives the guest up: the process would stay, paused.
// It is read after the process has ended.
type tripwire struct {
	said   bytes.Buffer
	cancel context.CancelFunc
}

func (t *tripwire) Write(p []byte) (int, error) {
	t.said.Write(p[:min(len(p), max(0, 4096-t.said.Len()))])
	if bytes.Contains(t.said.Bytes(), []byte("internal error")) {
		t.cancel()
	}
	return len(p), nil
}

// hasMarker reads until the marker, the end, or more than a guest could have to say.
func hasMarker(out io.Reader) bool {
	lines := bufio.NewScanner(io.LimitReader(out, 1<<16))
	for lines.Scan() {
		if strings.Contains(lines.Text(), selfTestMarker) {
			return true
		}
	}
	return false
}

func firstLine(words string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(words), "\n")
	if line == "" {
		return ""
	}
	return ": " + line
}

func selfTestDisk() (*os.File, error) {
	disk, err := os.CreateTemp("", "nimbrel-selftest-")
	if err != nil {
		return nil, err
	}
	os.Remove(disk.Name())
	if _, err = disk.Write(selfTestSector); err == nil {
		err = disk.Truncate(selfTestDiskBytes)
	}
	if err != nil {
		disk.Close()
		return nil, err
	}
	return disk, nil
}

func selfTestCommand(a accelerator) []string {
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-sandbox", sandbox, "-m", "64M"}
	args = append(args, a.arguments()...)
	args = append(args, "-chardev", "stdio,id=console,signal=off", "-device", "isa-serial,chardev=console")
	// QEMU opens the set once for reading and writing.
	args = append(args, addFD(firstInherited, setRoot)...)
	return append(args,
		"-blockdev", fmt.Sprintf("driver=file,node-name=root-file,filename=/dev/fdset/%d", setRoot),
		"-blockdev", "driver=raw,node-name=root,file=root-file",
		"-device", "virtio-blk-pci,drive=root,bootindex=0")
}
