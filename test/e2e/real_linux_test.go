package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/image/imagetest"
	"github.com/nimbrel/nimbrel/test/inventory"
)

const diskVariable = "NIMBREL_E2E_DISK"

// TestRealCloud brings up a cloud of two real hosts in a machine of its own, runs the demo on it, breaks it in every way
// that it must survive, takes it down, and compares the machine with what it was before.
func TestRealCloud(t *testing.T) {
	if inside() {
		realCloud(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: real hosts need network namespaces")
	}
	for _, program := range []string{"aws", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("no ", program, " on the PATH")
		}
	}
	imagetest.NeedQEMU(t)
	disk := imagetest.Image(t).Disk
	if err := build("demo", "./test/demo", "test"); err != nil {
		t.Fatal(err)
	}
	runInside(t, diskVariable+"="+disk)
}

// world is a cloud of two real hosts with the demo's instances in it.
type world struct {
	*cloud
	key string // of the demo's key pair
}

func realCloud(t *testing.T) {
	w := &world{cloud: newCloud(t, claimPlace(t))}
	before := w.inventory()
	w.key = filepath.Join(w.home(), "key.pem")
	w.up("--image", os.Getenv(diskVariable))
	w.demo()
	for _, fault := range []struct {
		name string
		run  func(*world)
	}{
		{"doors", (*world).doors},
		{"agent killed", (*world).agentKilled},
		{"server killed, disk grown", (*world).serverKilled},
		{"group revoked", (*world).groupRevoked},
		{"life of an instance", (*world).life},
		{"terminate on a dead host", (*world).terminateOnDeadHost},
		{"demo again", (*world).demo},
	} {
		t.Run(fault.name, func(t *testing.T) {
			outer := w.t
			defer func() { w.t = outer }()
			w.t = t
			fault.run(w)
			w.checkClean()
		})
	}
	w.nothingLeft(before)
}

func (w *world) inventory() inventory.Inventory {
	return inventory.Take(inventory.Options{Folders: []string{w.root, "/run"}})
}

// nothingLeft takes the cloud down and compares the machine with what it was. Control groups are not the machine's own:
// of those, only what has the id of one of this cloud's instances counts. The key pair's file is the demo's.
func (w *world) nothingLeft(before inventory.Inventory) {
	w.t.Helper()
	var ids []string
	for _, v := range w.instances() {
		ids = append(ids, v.InstanceId)
	}
	if r := w.run("dev", "down"); r.status == 0 || !strings.Contains(r.stderr, "--yes") {
		w.t.Errorf("dev down with instances: %v", r)
	}
	during := inventory.Diff(before, w.inventory())
	for _, kind := range []string{"process", "namespace", "link", "address", "mount", "file"} { // the comparison sees the cloud
		if !slices.ContainsFunc(during, func(line string) bool { return strings.HasPrefix(line, "+ "+kind+" ") }) {
			w.t.Errorf("the inventory of a running cloud lists no %s", kind)
		}
	}
	w.must("dev", "down", "--yes")
	left := slices.DeleteFunc(inventory.Diff(before, w.inventory()), func(line string) bool {
		ours := func(id string) bool { return strings.Contains(line, id) }
		return strings.Contains(line, w.home()) || strings.Contains(line, " cgroup ") && !slices.ContainsFunc(ids, ours)
	})
	if len(left) > 0 {
		w.t.Errorf("left behind by %d instances:\n%s", len(ids), joinLines(left))
	}
}

// demo runs the demo's own program; it finds what an earlier run has made.
func (w *world) demo() {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "demo"), "-nimbrel", nimbrelPath(), "-dir", w.home())
	cmd.Env = []string{"PYENV_ROOT=" + os.Getenv("PYENV_ROOT")}
	r := w.start(cmd)
	if r.status != 0 || strings.Contains(r.stdout, "FAIL") {
		w.t.Fatal(r)
	}
	w.t.Log(joinLines(regexp.MustCompile(`(?m)^(check|figure) .*$`).FindAllString(r.stdout, -1)))
}

// named finds a running instance of the demo: a1 and a2, b1 and b2, each pair in a VPC, the digit is the host.
func (w *world) named(name string) launched {
	w.t.Helper()
	all := ec2[describeAnswer](w.cloud, "DescribeInstances", "Filter.1.Name", "tag:Name", "Filter.1.Value.1", "demo-"+name,
		"Filter.2.Name", "instance-state-name", "Filter.2.Value.1", "running").Instances
	if len(all) != 1 {
		w.t.Fatalf("%d running instances named %s", len(all), name)
	}
	return all[0]
}

func (w *world) sshArgs(id string, command ...string) []string {
	return append([]string{"ssh", "-i", w.key, id, "--"}, command...)
}

// ssh runs a command in a guest.
func (w *world) ssh(id string, command ...string) result {
	w.t.Helper()
	return w.run(w.sshArgs(id, command...)...)
}

// mustSSH runs a command that must succeed, and returns its output.
func (w *world) mustSSH(id string, command ...string) string {
	w.t.Helper()
	r := w.ssh(id, command...)
	if r.status != 0 {
		w.t.Fatal(r)
	}
	return strings.TrimSpace(r.stdout)
}

// awaitSSH waits until a guest can be logged in to.
func (w *world) awaitSSH(id string) {
	w.t.Helper()
	w.eventually("ssh to "+id, func() error {
		r := w.ssh(id, "true")
		return expect(r.status == 0, "%v", r)
	})
}

// qemus lists the machines' processes by instance id: the pid.
func qemus(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	pattern := regexp.MustCompile(`guest=(i-[0-9a-f]+)`)
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		raw, _ := os.ReadFile(p)
		if m := pattern.FindSubmatch(raw); m != nil && strings.Contains(string(raw[:min(len(raw), 40)]), "qemu") {
			found[string(m[1])] = filepath.Base(filepath.Dir(p))
		}
	}
	return found
}

// session is a command that runs in the background, with lines in and out.
type session struct {
	w     *world
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// open starts nimbrel in the background; it is killed when the subtest ends.
func (w *world) open(args ...string) *session {
	w.t.Helper()
	cmd := nimbrelCommand(args...)
	cmd.Env = w.environment()
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	_ = write.Close()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = read.Close()
	})
	return &session{w, cmd, in, bufio.NewScanner(read)}
}

// line waits for the next line of output.
func (s *session) line() string {
	s.w.t.Helper()
	if !s.lines.Scan() {
		s.w.t.Fatalf("%v ended early: %v", s.cmd.Args, s.lines.Err())
	}
	return s.lines.Text()
}

func (s *session) send(line string) {
	s.w.t.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.w.t.Fatal(err)
	}
}
