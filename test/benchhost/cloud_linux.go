package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/internal/statedir"
)

// Where this program's cloud is, so that it never meets the one that a person runs.
const (
	prefix   = "nbh"
	underlay = "198.18.83.0/24"
	port     = "18783"
)

const (
	pollEvery = 200 * time.Millisecond
	waitLimit = 4 * time.Minute // end of patience, not an expectation
	downLimit = 3 * time.Minute
)

// hosts are the names of the cloud's two.
var hosts = []string{"host-1", "host-2"}

// cloud is one cloud of `nimbrel dev`, run by whichever binary is current.
type cloud struct {
	bench  *bench
	state  string
	binary string
}

func (c *cloud) env() []string {
	return append(os.Environ(), statedir.Variable+"="+c.state, "XDG_CACHE_HOME="+filepath.Join(c.bench.dir, "cache"))
}

// run runs nimbrel and returns its output; its error holds what it said.
func (c *cloud) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = c.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a person's ^C reaches it only through this program
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + " " + stdout.String())
		return stdout.String(), fmt.Errorf("nimbrel %s: %w: %s", strings.Join(args[:min(len(args), 4)], " "), err, said)
	}
	return stdout.String(), nil
}

// printed runs a command with --json and decodes what it prints.
func printed[T any](ctx context.Context, c *cloud, args ...string) (v T, err error) {
	out, err := c.run(ctx, append(args, "--json")...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	return v, err
}

// up brings up what is missing, by the current binary.
func (c *cloud) up(ctx context.Context) error {
	_, err := c.run(ctx, "dev", "up", "--port", port, "--prefix", prefix, "--underlay", underlay, "--image", c.bench.disk)
	return err
}

func (c *cloud) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downLimit)
	defer cancel()
	_, err := c.run(ctx, "dev", "down", "--yes")
	return err
}

// daemon is one process of `nimbrel dev status`.
type daemon struct {
	Name    string
	PID     int
	Running bool
}

// end sends a signal to processes of the cloud and waits until they have ended.
func (c *cloud) end(ctx context.Context, signal syscall.Signal, names ...string) error {
	all, err := printed[[]daemon](ctx, c, "dev", "status")
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, name := range names {
		left[name] = true
	}
	for _, d := range all {
		if !left[d.Name] {
			continue
		}
		if !d.Running {
			return fmt.Errorf("%s does not run", d.Name)
		}
		if err := syscall.Kill(d.PID, signal); err != nil {
			return fmt.Errorf("end %s: %w", d.Name, err)
		}
		delete(left, d.Name)
	}
	if len(left) > 0 {
		return fmt.Errorf("no process of %v", left)
	}
	return until(ctx, fmt.Sprintf("%v have ended", names), func() (bool, error) {
		all, err := printed[[]daemon](ctx, c, "dev", "status")
		for _, d := range all {
			for _, name := range names {
				if d.Name == name && d.Running {
					return false, nil
				}
			}
		}
		return err == nil, err
	})
}

// versions is what the hosts say that their agents are.
func (c *cloud) versions(ctx context.Context) (map[string]string, error) {
	all, err := printed[[]struct{ Name, AgentVersion string }](ctx, c, "hosts")
	found := map[string]string{}
	for _, h := range all {
		found[h.Name] = h.AgentVersion
	}
	return found, err
}

// machines are the guests' processes, by instance id.
func (c *cloud) machines() (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(c.state, "hosts", "*", "guests", "i-*", "process.json"))
	found := map[string]string{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var p struct{ PID int }
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, err
		}
		if err := syscall.Kill(p.PID, 0); err != nil {
			return nil, fmt.Errorf("machine %d: %w", p.PID, err)
		}
		found[filepath.Base(filepath.Dir(path))] = fmt.Sprint(p.PID)
	}
	return found, err
}

// until asks until done says so, or patience ends.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-time.After(pollEvery): // other processes' states have no event to wait for
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %w", what, ctx.Err(), err)
		}
		if err != nil && ctx.Err() != nil {
			return err
		}
	}
}
