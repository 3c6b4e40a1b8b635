package datapath

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// floorInit, in the environment, makes this test binary the first process of a machine.
const floorInit = "NIMBREL_DATAPATH_INIT"

func TestMain(m *testing.M) {
	switch os.Getenv(floorInit) {
	case "":
		os.Exit(m.Run())
	case "ready":
		fmt.Printf("floor: exit %d\n", m.Run())
	default:
		fmt.Println("floor: set up:", becomeInit())
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// becomeInit gives the tests what they find on a real system.
func becomeInit() error {
	for path, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs", "/tmp": "tmpfs"} {
		if err := errors.Join(os.MkdirAll(path, 0o755), unix.Mount(kind, path, kind, 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		file, err := os.Open("/modules/" + name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	// Begin again: libraries have looked at an empty /proc when this process started.
	return unix.Exec("/init", os.Args, []string{floorInit + "=ready", "PATH=/bin"})
}

// floorModules are what the data path needs, and what Debian's 6.1 has as modules.
var floorModules = []string{"tun", "veth", "vxlan", "sch_ingress", "cls_bpf", "act_mirred"}

// TestKernelFloor boots Debian 12's kernel under emulation with this test binary as its only process: every program loads
// there, and the flows of the matrix pass, attached by clsact.
func TestKernelFloor(t *testing.T) {
	if os.Getenv(floorInit) != "" {
		floorFacts(t)
		return
	}
	if testing.Short() {
		t.Skip("boots a kernel")
	}
	needRoot(t)
	for _, tool := range []string{"qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	kernel := floorKernel(t, ctx)
	binary := filepath.Join(t.TempDir(), "init")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, out)
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	check(t, writeInitrd(initrd, binary, kernel))
	started := time.Now()
	// no_timer_check: on a loaded machine the kernel's own wait for the emulated timer's first ticks is too short.
	// Most of the time goes into the verifier, at each load: one leg, and the tests that use the most helpers.
	tests := "^(TestKernelFloor|TestPolicy|TestServices|TestFragments|TestTooBigIsAnswered|TestSpoofedSourcesAreDropped)$/^auto,vnet=true$"
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg",
		"-cpu", "max", "-smp", "2", "-m", "768", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(kernel, "vmlinuz"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check "+floorInit+"=1 -- -test.v -test.run="+tests)
	console, err := machine.StdoutPipe()
	check(t, err)
	machine.Stderr = os.Stderr
	check(t, machine.Start())
	var text strings.Builder
	passedIn := false
	for lines := bufio.NewScanner(console); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		text.WriteString(line + "\n")
		passedIn = passedIn || strings.HasSuffix(line, "floor: exit 0")
		if strings.Contains(line, "floor:") {
			t.Log(line)
		}
	}
	err = machine.Wait()
	for _, want := range []string{"floor: kernel 6.1.", "--- PASS: TestPolicy", "--- PASS: TestServices", "--- PASS: TestFragments", "--- PASS: TestSpoofedSourcesAreDropped"} {
		passedIn = passedIn && strings.Contains(text.String(), want)
	}
	if !passedIn {
		t.Fatalf("the machine ended (%v) without passing:\n%s", err, text.String())
	}
	t.Logf("booted and passed in %.1f s", time.Since(started).Seconds())
}

// floorFacts runs inside.
func floorFacts(t *testing.T) {
	var name unix.Utsname
	check(t, unix.Uname(&name))
	f := newFabric(t, legs[0])
	fmt.Printf("floor: kernel %s tcx=%t\n", unix.ByteSliceToString(name.Release[:]), f.hosts[0].tcx)
	if f.hosts[0].tcx {
		t.Error("this kernel should not have TCX")
	}
}

// floorKernel is the folder of the unpacked kernel package, kept in the user's cache.
func floorKernel(t *testing.T, ctx context.Context) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	check(t, err)
	cache = filepath.Join(cache, "nimbrel", "datapath")
	check(t, os.MkdirAll(cache, 0o755))
	if found, _ := filepath.Glob(filepath.Join(cache, "kernel-6.1.*", "order")); len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--important", "linux-image-cloud-amd64").Output()
	_, name, found := strings.Cut(string(out), "Depends: ")
	name, _, _ = strings.Cut(name, "\n")
	if err != nil || !found || !strings.HasPrefix(name, "linux-image-6.1.") {
		t.Skipf("apt knows no 6.1 cloud kernel (run apt-get update as root): %q %v", name, err)
	}
	work, err := os.MkdirTemp(cache, "tmp-")
	check(t, err)
	defer os.RemoveAll(work)
	get := exec.CommandContext(ctx, "apt-get", "-o", "APT::Sandbox::User=root", "download", name)
	get.Dir = work
	if out, err := get.CombinedOutput(); err != nil {
		t.Skipf("the kernel package is not cached and cannot be fetched: %v\n%s", err, out)
	}
	packages, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	if len(packages) != 1 {
		t.Fatalf("%d packages were downloaded", len(packages))
	}
	root := filepath.Join(work, "root")
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", packages[0], root).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", name, err, out)
	}
	picked := filepath.Join(work, "picked")
	check(t, pickModules(root, picked))
	final := filepath.Join(cache, "kernel-"+strings.TrimPrefix(name, "linux-image-"))
	if err := os.Rename(picked, final); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return final
}

// pickModules copies the kernel and the modules with what they depend on, and writes the order in which they load.
func pickModules(root, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	kernels, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if len(kernels) != 1 {
		return fmt.Errorf("%d kernels in the package", len(kernels))
	}
	if err := copyFile(kernels[0], filepath.Join(to, "vmlinuz")); err != nil {
		return err
	}
	paths := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "lib", "modules"), func(path string, _ fs.DirEntry, err error) error {
		if name, is := strings.CutSuffix(filepath.Base(path), ".ko"); is {
			paths[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	var order []string
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path, isModule := paths[name]
		if done[name] || !isModule { // what is no module is built in
			return nil
		}
		done[name] = true
		needs, err := dependencies(path)
		for _, need := range needs {
			err = errors.Join(err, add(strings.ReplaceAll(need, "-", "_")))
		}
		order = append(order, filepath.Base(path))
		return errors.Join(err, copyFile(path, filepath.Join(to, filepath.Base(path))))
	}
	for _, name := range floorModules {
		if err := add(name); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "order"), []byte(strings.Join(order, "\n")), 0o644)
}

// dependencies reads a module's own list: packages carry no modules.dep.
func dependencies(path string) ([]string, error) {
	module, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer module.Close()
	info, err := module.Section(".modinfo").Data()
	if err != nil {
		return nil, err
	}
	for _, field := range bytes.Split(info, []byte{0}) {
		if list, is := strings.CutPrefix(string(field), "depends="); is && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// writeInitrd writes a cpio archive (newc) with the init process, the modules, and the layout's source for its test.
func writeInitrd(path, binary, kernel string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	archive := bufio.NewWriter(out)
	number := 0
	entry := func(name string, mode, major, minor int, content []byte) {
		number++
		fmt.Fprintf(archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			number, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
		_, _ = io.WriteString(archive, strings.Repeat("\x00", (4-(110+len(name)+1)%4)%4))
		_, _ = archive.Write(content)
		_, _ = io.WriteString(archive, strings.Repeat("\x00", (4-len(content)%4)%4))
	}
	for _, dir := range []string{"dev", "modules", "bpf"} {
		entry(dir, 0o40755, 0, 0, nil)
	}
	entry("dev/console", 0o20600, 5, 1, nil)
	files := map[string]string{"init": binary, "bpf/layout.h": "bpf/layout.h"}
	names, err := os.ReadDir(kernel)
	if err != nil {
		return err
	}
	for _, file := range names {
		if file.Name() != "vmlinuz" {
			files["modules/"+file.Name()] = filepath.Join(kernel, file.Name())
		}
	}
	for name, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		entry(name, 0o100755, 0, 0, content)
	}
	entry("TRAILER!!!", 0, 0, 0, nil)
	return archive.Flush()
}
