package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
	"github.com/nimbrel/nimbrel/internal/runbook"
)

const (
	spaceNeeded  = 2 << 30
	filesWanted  = 4096
	memoryNeeded = 1 << 30
)

func kernel(context.Context, Options) Finding {
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return missing(err.Error(), "mount /proc")
	}
	release := strings.TrimSpace(string(raw))
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return missing("kernel "+release, "use Debian 12's kernel, 6.1, or newer")
	}
	switch {
	case major < 6 || major == 6 && minor < 1:
		return missing(release+", older than 6.1", "use Debian 12's kernel, 6.1, or newer")
	case major == 6 && minor < 6:
		return fallback(release, "classic tc hooks", "a kernel of 6.6 or newer has TCX")
	}
	return ok("%s", release)
}

func kernelTypes(context.Context, Options) Finding {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return missing(err.Error(), "use a kernel built with CONFIG_DEBUG_INFO_BTF (Debian's is), and let /sys/kernel/btf/vmlinux be read")
	}
	return ok("/sys/kernel/btf/vmlinux")
}

func programTypes(context.Context, Options) Finding {
	if err := features.HaveProgramType(ebpf.SchedCLS); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fallback("no permission to load a program", simulated, "run with sudo")
		}
		return missing("programs on tc hooks: "+err.Error(), "use a kernel built with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF")
	}
	for _, kind := range []ebpf.MapType{ebpf.Hash, ebpf.Array, ebpf.LRUHash, ebpf.ArrayOfMaps} {
		if err := features.HaveMapType(kind); err != nil {
			return missing(fmt.Sprintf("maps of type %s: %v", kind, err), "use Debian 12's kernel, 6.1, or newer")
		}
	}
	return ok("tc programs, hash, array and LRU maps")
}

func tapDevice(context.Context, Options) Finding {
	const path = "/dev/net/tun"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return missing("no "+path, "modprobe tun; in a container, give it the device")
	case errors.Is(err, os.ErrPermission):
		return fallback(err.Error(), simulated, "run with sudo; in a container, allow the device and CAP_NET_ADMIN")
	case err != nil:
		return missing(err.Error(), "modprobe tun")
	}
	_ = f.Close()
	return ok("%s", path)
}

// vxlan makes a tunnel device in a namespace that ends with the thread that made it.
func vxlan(context.Context, Options) Finding {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and the namespace with it, ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, FlowBased: true, Port: 4789})
	}()
	switch err := <-done; {
	case err == nil:
		return ok("a tunnel device was made and removed")
	case errors.Is(err, os.ErrPermission):
		return fallback("no permission to make a network namespace", simulated, "run with sudo")
	default:
		return missing(err.Error(), "modprobe vxlan, or use a kernel built with CONFIG_VXLAN")
	}
}

// accelerator boots a guest of one sector: a /dev/kvm that opens proves nothing.
func accelerator(ctx context.Context, _ Options) Finding {
	const emulation = "emulation (TCG): slow, and for trusted guests only"
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return missing("not tried: no QEMU", "apt-get install qemu-system-x86")
	}
	dir, err := os.MkdirTemp("", "nimbrel-doctor-") // a verdict of its own: not the one that an agent keeps
	if err != nil {
		return missing(err.Error(), "make room in the folder for temporary files, or set TMPDIR")
	}
	defer os.RemoveAll(dir)
	driver, err := qemu.New(qemu.Options{StateDir: dir})
	if err != nil {
		return missing(err.Error(), "apt-get install --reinstall qemu-system-x86")
	}
	found, err := driver.Probe(ctx)
	switch {
	case err != nil:
		return missing(err.Error(), "apt-get install --reinstall qemu-system-x86 seabios")
	case found.Accelerator != "kvm":
		return fallback("a test guest does not run under KVM: "+found.Reason, emulation, "turn virtualization on in the machine's firmware, or nested virtualization on its own host; load kvm_intel or kvm_amd")
	}
	return ok("a test guest ran under KVM, CPU model %s", found.CPUModel)
}

func cgroups(context.Context, Options) Finding {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return ok("unified hierarchy (v2)")
	}
	const fix = "boot with systemd.unified_cgroup_hierarchy=1"
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		return fallback("hierarchy of version 1", "limits by version 1", fix)
	}
	return fallback("no control groups", "no limits beyond QEMU's own", fix+", or mount /sys/fs/cgroup")
}

func openFiles(context.Context, Options) Finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return missing(err.Error(), "allow getrlimit")
	}
	if limit.Max < filesWanted {
		return fallback(fmt.Sprintf("at most %d", limit.Max), "fewer hosts and guests at once", "raise the limit: LimitNOFILE= of the unit, or ulimit -Hn")
	}
	return ok("up to %d", limit.Max)
}

func memory(context.Context, Options) Finding {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return missing(err.Error(), "mount /proc")
	}
	var availableKiB int64
	for line := range strings.Lines(string(raw)) {
		if rest, found := strings.CutPrefix(line, "MemAvailable:"); found {
			_, err = fmt.Sscan(rest, &availableKiB)
		}
	}
	if err != nil || availableKiB<<10 < memoryNeeded {
		return missing(fmt.Sprintf("%d MiB available", availableKiB>>10), "free some memory: a server and one small guest need 1024 MiB")
	}
	return ok("%d MiB available", availableKiB>>10)
}

func diskSpace(_ context.Context, o Options) Finding {
	dir := existing(o.StateDir, isDir)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return missing(dir+": "+err.Error(), "choose another state directory: NIMBREL_STATE_DIR")
	}
	free := int64(fs.Bavail) * fs.Bsize
	found := fmt.Sprintf("%d MiB free for %s", free>>20, o.StateDir)
	switch {
	case free < spaceNeeded:
		return missing(found, fmt.Sprintf("free some space there, to %d MiB at least: see %s", spaceNeeded>>20, runbook.DiskFull))
	case fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC:
		return fallback(found+", in memory", "a cloud that a reboot forgets", "choose a state directory on a disk: NIMBREL_STATE_DIR")
	}
	return ok("%s", found)
}

// clockSync asks the kernel whether anything disciplines its clock.
func clockSync(now time.Time) Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	text := now.UTC().Format(time.DateTime + " UTC")
	if err != nil {
		return fallback(text+", "+err.Error(), "the clock as it is", "apt-get install chrony")
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return fallback(text+", synchronised by nothing that the kernel knows of", "the clock as it is: 15 minutes off, and requests are refused", "apt-get install chrony")
	}
	return ok("%s, synchronised", text)
}
