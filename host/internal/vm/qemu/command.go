package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"

	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// MachineType is versioned, so that a guest sees the same hardware on every QEMU from 7.2 (Debian 12) on.
const MachineType = "pc-q35-7.2"

// translationMiB is TCG's buffer for translated code. QEMU's own default is a large part of the machine's memory.
const translationMiB = 32

// sandbox denies the machine's process what an emulator has no need of after it started.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// accelerator is how a guest's instructions are run.
type accelerator struct {
	Name string // "kvm" or "tcg"
	CPU  string // model that the guest sees
}

func (a accelerator) arguments() []string {
	accel := a.Name
	if a.Name == "tcg" {
		accel = fmt.Sprintf("tcg,tb-size=%d", translationMiB)
	}
	return []string{"-machine", MachineType + ",vmport=off,smm=off,graphics=off,dump-guest-core=off", "-accel", accel, "-cpu", a.CPU}
}

// inherited are the numbers of the descriptors that the process is born with. Zero means none.
type inherited struct {
	agentMonitor, humanMonitor int // listening sockets
	control                    int // listening socket
	base, root                 int // disk
	firmware, nvram            int
	kernel, initrd             int
	taps                       []int
}

// command is QEMU's arguments for a guest. It is a pure function of what is launched.
func command(spec vm.Spec, a accelerator, fds inherited, panicDevice bool) []string {
	args := []string{
		"-name", vm.GuestArgument(spec) + ",debug-threads=on",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", sandbox,
		"-S", // runs when it has been recorded
		"-action", "reboot=reset,shutdown=pause,panic=none,watchdog=none",
		"-msg", "timestamp=on",
	}
	args = append(args, a.arguments()...)
	args = append(args, "-smp", fmt.Sprint(spec.VCPUs), "-m", fmt.Sprintf("%dM", spec.MemoryMiB))
	args = append(args, identity(spec)...)
	args = append(args, "-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0")
	if panicDevice {
		args = append(args, "-device", "pvpanic-pci")
	}
	args = append(args, monitor("qmp", fds.agentMonitor)...)
	args = append(args, monitor("human", fds.humanMonitor)...)
	args = append(args, serial(fds)...)
	args = append(args, boot(spec, fds)...)
	if fds.root != 0 {
		args = append(args, disk(spec, fds)...)
	}
	for i, nic := range spec.NICs {
		args = append(args, network(i, nic, fds.taps[i])...)
	}
	return args
}

// identity is what the guest's SMBIOS tables say. cloud-init takes a machine for EC2 when its UUID begins with "ec2" and
// equals its serial number; stock images then ask the metadata service.
func identity(spec vm.Spec) []string {
	uuid := UUID(spec.ID)
	product := spec.Product
	if product == "" {
		product = "nimbrel"
	}
	return []string{
		"-uuid", uuid,
		"-smbios", "type=0,vendor=Amazon EC2,version=1.0",
		"-smbios", "type=1,manufacturer=Amazon EC2,product=" + escape(product) + ",uuid=" + uuid + ",serial=" + uuid,
		"-smbios", "type=3,manufacturer=Amazon EC2,asset=Amazon EC2",
	}
}

// UUID is an instance's machine UUID: "ec2" and 29 digits that follow from its id.
func UUID(id ids.Instance) string {
	sum := sha256.Sum256([]byte(id))
	digits := "ec2" + hex.EncodeToString(sum[:])[:29]
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
}

// escape doubles commas, which end a value in QEMU's option syntax.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func monitor(name string, fd int) []string {
	return []string{
		"-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", name, fd),
		"-mon", "chardev=" + name + ",mode=control",
	}
}

// consoleRing is how much of its console a machine keeps by itself: a power of two, and part of what a guest costs its
// host beside its own memory.
const consoleRing = 1 << 20

// serial gives the guest a console that QEMU keeps the last of, in memory, whatever the guest writes and whether or not
// an agent runs to take it. Input is not connected: the way into a guest is its network.
func serial(fds inherited) []string {
	args := []string{"-chardev", fmt.Sprintf("ringbuf,id=console,size=%d", consoleRing), "-device", "isa-serial,chardev=console,index=0"}
	if fds.control != 0 {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=control,fd=%d,server=on,wait=off", fds.control),
			"-device", "isa-serial,chardev=control,index=1")
	}
	return args
}

// Descriptor sets: QEMU opens "/dev/fdset/N" where it would open a file.
const (
	_ = iota + 1 // was the console's log
	setBase
	setRoot
	setFirmware
	setNVRAM
)

func addFD(fd, set int) []string { return []string{"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, set)} }

func boot(spec vm.Spec, fds inherited) []string {
	switch {
	case spec.Direct != nil:
		args := []string{"-kernel", procFD(fds.kernel), "-append", spec.Direct.Cmdline}
		if fds.initrd != 0 {
			args = append(args, "-initrd", procFD(fds.initrd))
		}
		return args
	case spec.Firmware == vm.UEFI:
		args := append(addFD(fds.firmware, setFirmware), addFD(fds.nvram, setNVRAM)...)
		return append(args,
			"-blockdev", fmt.Sprintf("driver=file,node-name=firmware-file,filename=/dev/fdset/%d,read-only=on", setFirmware),
			"-blockdev", "driver=raw,node-name=firmware,file=firmware-file,read-only=on",
			"-blockdev", fmt.Sprintf("driver=file,node-name=nvram-file,filename=/dev/fdset/%d", setNVRAM),
			"-blockdev", "driver=raw,node-name=nvram,file=nvram-file",
			"-machine", "pflash0=firmware,pflash1=nvram")
	}
	return []string{"-boot", "strict=on"}
}

// procFD names an inherited descriptor for the options that take only a path.
func procFD(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// disk says every driver and format. QEMU never looks into a guest's bytes to guess one, and follows no backing name
// that a guest could have written.
func disk(spec vm.Spec, fds inherited) []string {
	device := "virtio-blk-pci,drive=root"
	if spec.Direct == nil { // QEMU refuses a boot index beside a kernel
		device += ",bootindex=0"
	}
	if spec.Disk.Serial != "" {
		device += ",serial=" + escape(spec.Disk.Serial)
	}
	args := append(addFD(fds.base, setBase), addFD(fds.root, setRoot)...)
	return append(args,
		"-blockdev", fmt.Sprintf("driver=file,node-name=base-file,filename=/dev/fdset/%d,read-only=on", setBase),
		"-blockdev", "driver=raw,node-name=base,file=base-file,read-only=on",
		"-blockdev", fmt.Sprintf("driver=file,node-name=root-file,filename=/dev/fdset/%d,discard=unmap", setRoot),
		"-blockdev", "driver=qcow2,node-name=root,file=root-file,backing=base,discard=unmap",
		"-device", device)
}

// network connects an inherited tap. The option ROM is left out: it would boot from the network.
func network(i int, nic vm.NIC, fd int) []string {
	device := fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,romfile=", i, net.HardwareAddr(nic.MAC[:]))
	if nic.MTU > 0 {
		device += fmt.Sprintf(",host_mtu=%d", nic.MTU)
	}
	return []string{"-netdev", fmt.Sprintf("tap,id=net%d,fd=%d,vhost=off", i, fd), "-device", device}
}
