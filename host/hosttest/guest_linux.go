package hosttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// guestModules are loaded in this order: a power button, its events, and a disk and a network card.
var guestModules = []string{
	"button", "evdev", "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
	"failover", "net_failover", "virtio_net",
}

var guest struct {
	once         sync.Once
	boot         vm.DirectBoot
	skip, failed string
}

// Guest is a kernel and an initial file system whose process 1 is testguest. It skips the test when this machine cannot
// get a kernel. The guest is built once per test binary, in the user's cache; what ended test runs left there is removed.
func Guest(t *testing.T) vm.DirectBoot {
	t.Helper()
	guest.once.Do(buildGuest)
	if guest.skip != "" {
		t.Skip(guest.skip)
	}
	if guest.failed != "" {
		t.Fatal(guest.failed)
	}
	return guest.boot
}

func buildGuest() {
	cache, err := os.UserCacheDir()
	if err != nil {
		guest.skip = "no cache directory for the test kernel: " + err.Error()
		return
	}
	cache = filepath.Join(cache, "nimbrel", "testguest")
	kernel, err := findKernel(cache)
	if err != nil {
		guest.skip = "no test kernel (run apt-get update as root, or be online): " + err.Error()
		return
	}
	initrd, err := buildInitrd(cache, kernel)
	if err != nil {
		guest.failed = "build test guest: " + err.Error()
		return
	}
	guest.boot = vm.DirectBoot{Kernel: filepath.Join(kernel, "vmlinuz"), Initrd: initrd, Cmdline: "console=ttyS0 panic=-1 quiet"}
}

// findKernel is a directory with vmlinuz and the modules. Concurrent test binaries may both fetch it; a rename decides.
func findKernel(cache string) (string, error) {
	if found, _ := filepath.Glob(filepath.Join(cache, "kernel-*", "vmlinuz")); len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	meta, err := runIn(work, "apt-cache", "depends", "linux-image-cloud-amd64")
	if err != nil {
		return "", err
	}
	_, name, _ := strings.Cut(meta, "Depends: ")
	name, _, _ = strings.Cut(name, "\n")
	download := []string{"-o", "APT::Sandbox::User=root"}
	if os.Geteuid() != 0 { // an ordinary user's tests skip without a kernel: offline that must not wait for more tries
		download = append(download, "-o", "Acquire::Retries=0")
	}
	if _, err := runIn(work, "apt-get", append(download, "download", strings.TrimSpace(name))...); err != nil {
		return "", err
	}
	return unpackKernel(cache, work)
}

func unpackKernel(cache, work string) (string, error) {
	debs, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	if len(debs) != 1 {
		return "", fmt.Errorf("apt-get left %d packages, want 1", len(debs))
	}
	if _, err := runIn(work, "dpkg-deb", "-x", debs[0], "tree"); err != nil {
		return "", err
	}
	out := filepath.Join(work, "kernel")
	if err := os.Mkdir(out, 0o755); err != nil {
		return "", err
	}
	kernels, _ := filepath.Glob(filepath.Join(work, "tree/boot/vmlinuz-*"))
	if len(kernels) != 1 {
		return "", fmt.Errorf("package holds %d kernels, want 1", len(kernels))
	}
	wanted := map[string]string{filepath.Base(kernels[0]): "vmlinuz"}
	for _, name := range guestModules {
		wanted[name+".ko"] = name + ".ko"
	}
	err := filepath.WalkDir(filepath.Join(work, "tree"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || wanted[entry.Name()] == "" {
			return err
		}
		return os.Rename(path, filepath.Join(out, wanted[entry.Name()]))
	})
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, "kernel-"+strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"))
	if err := os.Rename(out, final); err != nil && !os.IsExist(err) {
		return "", err
	}
	return final, nil
}

// buildInitrd compiles testguest and packs it, anew for each test process.
func buildInitrd(cache, kernel string) (string, error) {
	work, err := os.MkdirTemp(cache, ".initrd-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	program := filepath.Join(work, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/nimbrel/nimbrel/host/hosttest/testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	var archive cpio
	archive.dir("dev")
	archive.node("dev/console", unix.S_IFCHR|0o600, 5, 1)
	archive.dir("modules")
	var order []string
	for _, name := range guestModules {
		b, err := os.ReadFile(filepath.Join(kernel, name+".ko"))
		if err != nil {
			continue // built into this kernel
		}
		archive.file("modules/"+name+".ko", 0o644, b)
		order = append(order, name+".ko")
	}
	archive.file("modules/modules.order", 0o644, []byte(strings.Join(order, "\n")))
	b, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	archive.file("init", 0o755, b)
	temp := filepath.Join(work, "initrd")
	if err := os.WriteFile(temp, archive.end(), 0o644); err != nil {
		return "", err
	}
	final := filepath.Join(cache, fmt.Sprintf("initrd-%d", os.Getpid()))
	for _, stale := range staleInitrds(cache) {
		os.Remove(stale)
	}
	return final, os.Rename(temp, final)
}

// staleInitrds are those of test processes that have ended.
func staleInitrds(cache string) []string {
	found, _ := filepath.Glob(filepath.Join(cache, "initrd-*"))
	var stale []string
	for _, path := range found {
		pid := strings.TrimPrefix(filepath.Base(path), "initrd-")
		if _, err := os.Stat("/proc/" + pid); err != nil {
			stale = append(stale, path)
		}
	}
	return stale
}

func runIn(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// cpio writes the archive format that the kernel unpacks as its first file system ("newc").
type cpio struct {
	out   bytes.Buffer
	inode int
}

func (c *cpio) dir(name string) { c.entry(name, unix.S_IFDIR|0o755, nil, 0, 0) }

func (c *cpio) file(name string, mode uint32, content []byte) {
	c.entry(name, unix.S_IFREG|mode, content, 0, 0)
}

func (c *cpio) node(name string, mode uint32, major, minor int) {
	c.entry(name, mode, nil, major, minor)
}

func (c *cpio) entry(name string, mode uint32, content []byte, major, minor int) {
	c.inode++
	fmt.Fprintf(&c.out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	c.out.WriteString(name + "\x00")
	c.pad()
	c.out.Write(content)
	c.pad()
}

func (c *cpio) pad() {
	for c.out.Len()%4 != 0 {
		c.out.WriteByte(0)
	}
}

func (c *cpio) end() []byte {
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	return c.out.Bytes()
}
