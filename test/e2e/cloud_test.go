package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Limits are ends of patience, not expectations: what they bound takes a fifth of them on a busy machine.
const (
	commandLimit = 10 * time.Minute // the demo is one command
	eventLimit   = 4 * time.Minute
	pollEvery    = 100 * time.Millisecond
)

// cloud is one cloud of a test, driven by the binary.
type cloud struct {
	t testing.TB
	place
	root string // everything of this cloud is below it
}

// newCloud makes a place for a cloud and sees to its end.
func newCloud(t testing.TB, at place) *cloud {
	t.Helper()
	root, err := os.MkdirTemp("", "nbe") // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{t: t, place: at, root: root}
	for _, dir := range []string{c.home(), c.tmp()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil { // guests' users pass through
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.end()
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *cloud) dir() string  { return filepath.Join(c.root, "state") }
func (c *cloud) home() string { return filepath.Join(c.root, "home") }
func (c *cloud) tmp() string  { return filepath.Join(c.root, "tmp") }

// environment is the whole environment of this cloud's commands.
func (c *cloud) environment() []string {
	return []string{
		"PATH=" + binaries + ":" + os.Getenv("PATH"), "HOME=" + c.home(), "TMPDIR=" + c.tmp(), "NIMBREL_STATE_DIR=" + c.dir(),
	}
}

// end takes the cloud down and checks that it left nothing that its name can be read from.
func (c *cloud) end() {
	c.t.Helper()
	if c.t.Failed() {
		c.showLogs()
	}
	if r := c.run("dev", "down", "--yes"); r.status != 0 {
		c.t.Errorf("dev down --yes: %v", r)
	}
	if left := leftovers(c.dir()); len(left) > 0 {
		c.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// showLogs prints the end of each process's log into a failed test's output.
func (c *cloud) showLogs() {
	paths, _ := filepath.Glob(filepath.Join(c.dir(), "log", "*.log"))
	for _, p := range paths {
		raw, _ := os.ReadFile(p)
		c.t.Logf("the end of %s:\n%s", p, raw[max(0, len(raw)-3000):])
	}
}

// leftovers lists the processes that name a state directory in their arguments, and the directory itself.
func leftovers(dir string) []string {
	var left []string
	if _, err := os.Lstat(dir); err == nil {
		left = append(left, "file "+dir)
	}
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		raw, _ := os.ReadFile(p)
		if line := strings.ReplaceAll(string(raw), "\x00", " "); strings.Contains(line, dir) {
			left = append(left, "process "+filepath.Base(filepath.Dir(p))+" "+line)
		}
	}
	return left
}

// result is what a command did.
type result struct {
	command        string
	stdout, stderr string
	status         int
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit %d\nstdout: %s\nstderr: %s", r.command, r.status, r.stdout, r.stderr)
}

// run runs nimbrel with this cloud's environment.
func (c *cloud) run(args ...string) result {
	c.t.Helper()
	return c.start(exec.Command(nimbrelPath(), args...))
}

// start runs any command with this cloud's environment, to its end.
func (c *cloud) start(cmd *exec.Cmd) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	bounded := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	var stdout, stderr bytes.Buffer
	bounded.Env, bounded.Stdin, bounded.Stdout, bounded.Stderr = append(c.environment(), cmd.Env...), cmd.Stdin, &stdout, &stderr
	err := bounded.Run()
	exit := (*exec.ExitError)(nil)
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return result{strings.Join(cmd.Args, " "), stdout.String(), stderr.String(), bounded.ProcessState.ExitCode()}
}

// must runs nimbrel, which must succeed, and returns its output.
func (c *cloud) must(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.status != 0 {
		c.t.Fatal(r)
	}
	return r.stdout
}

// into runs a command with --json and decodes its answer.
func into[T any](c *cloud, args ...string) T {
	c.t.Helper()
	out := c.must(append(args, "--json")...)
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.t.Fatalf("nimbrel %s --json: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

// up brings the cloud up, or what is missing of it, and returns its progress.
func (c *cloud) up(args ...string) string {
	c.t.Helper()
	r := c.run(append([]string{"dev", "up", "--port", strconv.Itoa(c.port), "--prefix", c.prefix, "--underlay", c.underlay}, args...)...)
	if r.status != 0 {
		c.t.Fatal(r)
	}
	return r.stderr
}

// daemon is one process of `nimbrel dev status`.
type daemon struct {
	Name    string
	PID     int
	Running bool
}

func (c *cloud) daemon(name string) daemon {
	c.t.Helper()
	for _, d := range into[[]daemon](c, "dev", "status") {
		if d.Name == name {
			return d
		}
	}
	c.t.Fatalf("dev status has no %s", name)
	return daemon{}
}

// kill ends a process of the cloud at once, as a crash does, and returns when it has ended.
func (c *cloud) kill(name string) {
	c.t.Helper()
	d := c.daemon(name)
	if !d.Running {
		c.t.Fatalf("%s does not run", name)
	}
	if err := syscall.Kill(d.PID, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.eventually(name+" has ended", func() error { return expect(!c.daemon(name).Running, "it runs") })
}

// instance is one of `nimbrel instances`.
type instance struct {
	InstanceId, HostId, State, PrivateIp, Reason, VpcId string
}

func (c *cloud) instances() []instance {
	c.t.Helper()
	return into[[]instance](c, "instances")
}

func (c *cloud) instance(id string) instance {
	c.t.Helper()
	for _, v := range c.instances() {
		if v.InstanceId == id {
			return v
		}
	}
	c.t.Fatalf("no instance %s", id)
	return instance{}
}

// awaitState waits until an instance is in a state.
func (c *cloud) awaitState(id, state string) instance {
	c.t.Helper()
	var v instance
	c.eventually(id+" is "+state, func() error {
		v = c.instance(id)
		return expect(v.State == state, "it is %s (%s)", v.State, v.Reason)
	})
	return v
}

// checkClean runs the invariant checker until it is clean: what is under way settles, what is wrong stays.
func (c *cloud) checkClean() {
	c.t.Helper()
	c.eventually("check is clean", func() error {
		r := c.run("check")
		return expect(r.status == 0, "%s", strings.Join(regexp.MustCompile(`(?m)^check .* FAIL .*$`).FindAllString(r.stdout, -1), "\n")+r.stderr)
	})
}

// eventually polls until fn has no error, and fails the test when the limit is over.
func (c *cloud) eventually(what string, fn func() error) {
	c.t.Helper()
	if err := within(eventLimit, fn); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

func within(limit time.Duration, fn func() error) error {
	end := time.Now().Add(limit)
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		time.Sleep(pollEvery) // other processes' states have no event to wait for
	}
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// disk makes a file that passes for a raw disk where no guest boots from it.
func (c *cloud) disk() string {
	c.t.Helper()
	path := filepath.Join(c.root, "disk.raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}
