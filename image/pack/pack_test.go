package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestOptionsAreChecked(t *testing.T) {
	for name, opts := range map[string]Options{
		"no directory":  {},
		"one directory": {OutDir: "x", CacheDir: "x"},
		"format":        {OutDir: "x", Format: "vmdk"},
		"odd size":      {OutDir: "x", VirtualBytes: 300<<20 + 1},
		"too small":     {OutDir: "x", VirtualBytes: 128 << 20},
		"too large":     {OutDir: "x", VirtualBytes: 65 << 30},
		"negative size": {OutDir: "x", VirtualBytes: -1 << 20},
	} {
		if err := opts.complete(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good := Options{OutDir: "x"}
	if err := good.complete(); err != nil || good.VirtualBytes != DefaultVirtualBytes || good.Format != FormatRaw || !filepath.IsAbs(good.OutDir) {
		t.Errorf("defaults: %+v, %v", good, err)
	}
}

func TestMissingToolsNameThePackages(t *testing.T) {
	saved := needed
	defer func() { needed = saved }()
	needed = map[string]string{"no-such-tool-b": "pkg-b", "no-such-tool-a": "pkg-a", "no-such-tool-c": "pkg-a"}
	_, err := findTools()
	var missing *MissingToolsError
	if !errors.As(err, &missing) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "apt-get install -y ") || !strings.Contains(err.Error(), "pkg-a") || strings.Count(err.Error(), "pkg-a") != 1 {
		t.Errorf("error %q", err)
	}
}

// fakeInputs has everything but real programs, so that keys and trees can be looked at on any machine.
func fakeInputs() *inputs {
	return &inputs{
		kernel: &kernel{release: "6.1.0-test", image: []byte("kernel"), modules: []module{{"virtio.ko", []byte("m")}}},
		init:   []byte("init"), busybox: []byte("busybox"), applets: []string{"busybox", "init", "ls", "sh"},
		grub: &grub{sum: "grub"}, format: FormatRaw, bytes: DefaultVirtualBytes, tools: "1",
	}
}

func TestKeyFollowsEveryInput(t *testing.T) {
	base := fakeInputs().key()
	if fakeInputs().key() != base {
		t.Fatal("equal inputs, different keys")
	}
	for name, change := range map[string]func(*inputs){
		"kernel":  func(in *inputs) { in.kernel.image = []byte("other") },
		"release": func(in *inputs) { in.kernel.release = "6.2" },
		"module":  func(in *inputs) { in.kernel.modules[0].data = []byte("other") },
		"init":    func(in *inputs) { in.init = []byte("other") },
		"busybox": func(in *inputs) { in.busybox = []byte("other") },
		"applets": func(in *inputs) { in.applets = in.applets[:3] },
		"grub":    func(in *inputs) { in.grub.sum = "other" },
		"format":  func(in *inputs) { in.format = FormatQCOW2 },
		"size":    func(in *inputs) { in.bytes++ },
		"tools":   func(in *inputs) { in.tools = "2" },
	} {
		in := fakeInputs()
		change(in)
		if in.key() == base {
			t.Errorf("%s does not change the key", name)
		}
	}
}

func TestSystemTree(t *testing.T) {
	seen := map[string]node{}
	for _, n := range fakeInputs().systemTree() {
		if parent := filepath.Dir(n.path); parent != "." {
			if p, ok := seen[parent]; !ok || p.mode&^0o7777 != typeDir {
				t.Errorf("%s comes before its directory", n.path)
			}
		}
		if _, twice := seen[n.path]; twice {
			t.Errorf("%s comes twice", n.path)
		}
		seen[n.path] = n
	}
	if n := seen["bin/nimbrel-guest"]; n.mode != typeFile|setuid|0o755 || n.uid != 0 {
		t.Errorf("guest program has mode %o, owner %d", n.mode, n.uid)
	}
	if n := seen["bin/init"]; string(n.data) != "nimbrel-guest" {
		t.Errorf("init is a link to %q: busybox's would take its place", n.data)
	}
	if n := seen["home/ec2-user"]; n.uid != userID {
		t.Errorf("home belongs to %d", n.uid)
	}
}

// parseCPIO reads the format back, independently of how it is written.
func parseCPIO(t *testing.T, data []byte) map[string]node {
	t.Helper()
	all := map[string]node{}
	for at := 0; ; {
		if len(data) < at+110 || string(data[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		field := func(i int) int {
			n, err := strconv.ParseInt(string(data[at+6+8*i:at+14+8*i]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		nameLen, size := field(11), field(6)
		name := string(data[at+110 : at+110+nameLen-1])
		body := (at + 110 + nameLen + 3) &^ 3
		if name == "TRAILER!!!" {
			return all
		}
		all[name] = node{path: name, mode: uint32(field(1)), uid: uint32(field(2)), data: data[body : body+size], dev: [2]uint32{uint32(field(9)), uint32(field(10))}}
		at = (body + size + 3) &^ 3
	}
}

func TestCPIO(t *testing.T) {
	var tr tree
	tr.dir(0o755, "d")
	tr.file("d/f", 0o4755, []byte("hello"))
	tr.link("l", "d/f")
	tr = append(tr, node{path: "c", mode: typeChar | 0o600, dev: [2]uint32{5, 1}}, node{path: "u", mode: typeDir | 0o700, uid: 1000})
	var out bytes.Buffer
	if err := tr.cpio(&out); err != nil {
		t.Fatal(err)
	}
	got := parseCPIO(t, out.Bytes())
	for _, want := range tr {
		g, ok := got[want.path]
		if !ok || g.mode != want.mode || g.uid != want.uid || !bytes.Equal(g.data, want.data) || g.dev != want.dev {
			t.Errorf("%s: got %+v, want %+v", want.path, g, want)
		}
	}
}

func TestPublishIsAtomicAndCheckedOnLoad(t *testing.T) {
	out := t.TempDir()
	work, final := filepath.Join(out, tempPrefix+"1"), filepath.Join(out, "key")
	fill := func() Result {
		if err := os.Mkdir(work, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d", "k", "i"} {
			if err := os.WriteFile(filepath.Join(work, name), []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return Result{Disk: "d", Kernel: "k", Initrd: "i", SHA256: "s"}
	}
	result, err := publish(work, final, fill())
	if err != nil || result.Disk != filepath.Join(final, "d") {
		t.Fatalf("publish: %+v, %v", result, err)
	}
	if err := os.Truncate(result.Kernel, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := load(final); err == nil {
		t.Error("a damaged output is taken for a result")
	}
	if _, err := publish(work, final, fill()); err != nil {
		t.Errorf("a damaged output is not replaced: %v", err)
	}
	if _, err := load(final); err != nil {
		t.Error(err)
	}
}

func TestSweepRemovesOnlyLeftovers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{tempPrefix + "a", "kept"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweep(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "kept" {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"b", "a", "c"} { // b is the oldest
		sub := filepath.Join(dir, name)
		when := time.Unix(int64(1000+i), 0)
		if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(filepath.Join(sub, resultName), nil, 0o644), os.Chtimes(sub, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir, 2); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 || filepath.Base(left[0]) != "a" || filepath.Base(left[1]) != "c" {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestLockExcludesAndGivesUp(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*lockPoll)
	defer cancel()
	if _, err := lockDir(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second lock: %v", err)
	}
	unlock()
	second, err := lockDir(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	second()
}

func TestField(t *testing.T) {
	stanza := []byte("Package: linux\nDepends: linux-image-6.1 (= 6.1.2-1), x\nSHA256: abc\n")
	for name, want := range map[string]string{"Package": "linux", "Depends": "linux-image-6.1 (= 6.1.2-1), x", "SHA256": "abc", "Size": ""} {
		if got := field(stanza, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestBuild makes two real images and a third one from a directory that an interrupted build left behind.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images")
	}
	program := filepath.Join(t.TempDir(), "init")
	if busybox, err := findProgram("busybox"); err != nil || copyFile(busybox, program) != nil {
		t.Skip("busybox is not installed; it stands in for the guest program")
	}
	out := t.TempDir()
	var steps []string
	build := func(dir, format string) Result {
		t.Helper()
		steps = nil
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		r, err := Build(ctx, Options{OutDir: dir, GoInit: program, Format: format, VirtualBytes: MinVirtualBytes,
			Offline: os.Geteuid() != 0, Progress: func(s string) { steps = append(steps, s) }})
		var missing *MissingToolsError
		if errors.As(err, &missing) || errors.Is(err, ErrNoKernel) {
			t.Skip("no image: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := build(out, FormatRaw)
	if sum, err := hashFile(first.Disk); err != nil || sum != first.SHA256 || first.Cached {
		t.Errorf("hash %s, result says %s; cached %v; %v", sum, first.SHA256, first.Cached, err)
	}
	if again := build(out, FormatRaw); !again.Cached || again.Key != first.Key {
		t.Errorf("second build: %+v, steps %v", again, steps)
	}
	leftover := filepath.Join(out, tempPrefix+"dead")
	if err := errors.Join(os.Mkdir(leftover, 0o755), os.RemoveAll(filepath.Dir(first.Disk))); err != nil {
		t.Fatal(err)
	}
	if rebuilt := build(out, FormatRaw); rebuilt.SHA256 != first.SHA256 {
		t.Errorf("the same inputs made a different disk: %s, %s", rebuilt.SHA256, first.SHA256)
	}
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Error("an interrupted build's directory stays")
	}
	if q := build(out, FormatQCOW2); q.DiskFormat != FormatQCOW2 || !magic(t, q.Disk, "QFI\xfb") {
		t.Errorf("qcow2: %+v", q)
	}
	checkFilesystem(t, first)
}

func magic(t *testing.T, path, want string) bool {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(file, got); err != nil {
		t.Fatal(err)
	}
	return string(got) == want
}

// checkFilesystem lets the file system's own checker look at the root.
func checkFilesystem(t *testing.T, r Result) {
	t.Helper()
	e2fsck, err := findProgram("e2fsck")
	if err != nil {
		t.Skip("e2fsck is not installed")
	}
	out, err := run(context.Background(), "", nil, e2fsck, "-fn", fmt.Sprintf("%s?offset=%d", r.Disk, rootFirst*512))
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	debugfs, err := findProgram("debugfs")
	if err != nil {
		t.Fatal(err)
	}
	out, err = run(context.Background(), "", nil, debugfs, "-R", "stat /bin/nimbrel-guest", fmt.Sprintf("%s?offset=%d", r.Disk, rootFirst*512))
	if err != nil || !strings.Contains(string(out), "Mode:  04755") || !strings.Contains(string(out), "User:     0") {
		t.Errorf("guest program in the file system: %v\n%s", err, out)
	}
}
