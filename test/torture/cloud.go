package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/test/inventory"
)

// cloud is the cloud under test, driven by its own command.
type cloud struct {
	o      options
	dir    string
	remove bool // dir is ours
	before inventory.Inventory
}

// open chooses the cloud's place. Nothing is made yet but the folder that the state directory will be in.
func open(o options) (*cloud, error) {
	c := &cloud{o: o, dir: o.dir}
	if c.dir == "" {
		root, err := os.MkdirTemp("", "nbt") // short: a unix socket's path has at most 107 bytes
		if err != nil {
			return nil, err
		}
		if err := os.Chmod(root, 0o755); err != nil { // guests' users pass through
			return nil, err
		}
		c.dir, c.remove = filepath.Join(root, "state"), true
	}
	c.before = inventory.Take(inventory.Options{Folders: []string{"/run"}})
	return c, nil
}

// command runs nimbrel to its end and returns its output.
func (c *cloud) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.o.nimbrel, args...)
	cmd.Env = append(os.Environ(), "NIMBREL_STATE_DIR="+c.dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("nimbrel %s: %w: %s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// into runs a command with --json.
func into[T any](ctx context.Context, c *cloud, args ...string) (v T, err error) {
	out, err := c.command(ctx, append(args, "--json")...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	return v, err
}

// up brings up what is missing of the cloud.
func (c *cloud) up(ctx context.Context) error {
	_, err := c.command(ctx, "dev", "up", "--port", strconv.Itoa(c.o.port), "--prefix", c.o.prefix, "--underlay", c.o.underlay,
		"--hosts", strconv.Itoa(c.o.hosts), "--fake-hosts", strconv.Itoa(c.o.fakeHosts), "--image", c.o.image)
	return err
}

// process is one of the cloud's.
type process struct {
	Name    string
	PID     int
	Running bool
}

// processes lists the server and the agents that run.
func (c *cloud) processes(ctx context.Context) ([]process, error) {
	all, err := into[[]process](ctx, c, "dev", "status")
	return slices.DeleteFunc(all, func(p process) bool { return !p.Running }), err
}

var guestArgument = regexp.MustCompile(`guest=(i-[0-9a-f]+)`)

// machines are the cloud's QEMU processes, by instance id.
func (c *cloud) machines() map[string]int {
	found := map[string]int{}
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		raw, _ := os.ReadFile(p)
		m := guestArgument.FindSubmatch(raw)
		program, _, _ := bytes.Cut(raw, []byte{0})
		if m == nil || !bytes.Contains(program, []byte("qemu")) || !holdsFileBelow(filepath.Dir(p), c.dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil {
			found[string(m[1])] = pid
		}
	}
	return found
}

// holdsFileBelow says whether a process, given as its folder in /proc, has a file of dir open: a machine gets its files
// open, and its arguments name none.
func holdsFileBelow(process, dir string) bool {
	links, _ := filepath.Glob(filepath.Join(process, "fd", "*"))
	return slices.ContainsFunc(links, func(link string) bool {
		target, err := os.Readlink(link)
		return err == nil && strings.HasPrefix(target, dir+"/")
	})
}

// end takes the cloud down and tells what is left of it.
func (c *cloud) end() (left []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := c.command(ctx, "dev", "down", "--yes"); err != nil {
		return nil, err
	}
	if c.remove {
		if err := os.RemoveAll(filepath.Dir(c.dir)); err != nil {
			return nil, err
		}
	}
	left = slices.DeleteFunc(inventory.Diff(c.before, inventory.Take(inventory.Options{Folders: []string{"/run"}})), func(line string) bool {
		return !strings.HasPrefix(line, "+") || !strings.Contains(line, c.o.prefix) && !strings.Contains(line, c.dir)
	})
	return left, nil
}
