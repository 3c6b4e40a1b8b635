package main

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

// Where this program's cloud is, so that it never meets the one that a person runs.
const (
	prefix   = "nbh"
	underlay = "198.18.83.0/24"
	port     = "18783"
)

const (
	pollEvery = 200 * time.Millisecond
	waitLimit = 8 * time.Minute // end of patience, not an expectation; longer than a lost ping is waited for
	downLimit = 3 * time.Minute
)

// hosts are the names of the cloud's two.
var hosts = []string{"host-1", "host-2"}

// cloud is one cloud of `nimbrel dev`, run by whichever binary is current.
type cloud struct {
	devcloud.Cloud
	run *run
}

func (b *run) newCloud() *cloud {
	return &cloud{run: b, Cloud: devcloud.Cloud{
		Nimbrel: b.binaries[0], State: filepath.Join(b.Dir(), "state"), Env: []string{"XDG_CACHE_HOME=" + filepath.Join(b.Dir(), "cache")},
		Place: devcloud.Place{Port: port, Prefix: prefix, Underlay: underlay},
	}}
}

// up brings up what is missing, by the current binary.
func (c *cloud) up(ctx context.Context) error { return c.Up(ctx, "--image", c.run.disk) }

// end sends a signal to processes of the cloud and waits until they have ended.
func (c *cloud) end(ctx context.Context, signal syscall.Signal, names ...string) error {
	all, err := c.Processes(ctx)
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
		all, err := c.Processes(ctx)
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
	all, err := devcloud.Ask[[]struct{ Name, AgentVersion string }](ctx, &c.Cloud, "hosts")
	found := map[string]string{}
	for _, h := range all {
		found[h.Name] = h.AgentVersion
	}
	return found, err
}

// machines are the guests' processes, by instance id.
func (c *cloud) machines() (map[string]string, error) {
	found := map[string]string{}
	for _, folder := range c.GuestFolders() {
		pid, err := devcloud.GuestProcess(folder)
		if err == nil && pid == 0 {
			continue
		}
		if err == nil {
			err = syscall.Kill(pid, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("machine %d of %s: %w", pid, filepath.Base(folder), err)
		}
		found[filepath.Base(folder)] = fmt.Sprint(pid)
	}
	return found, nil
}

// until asks until done says so, or patience ends.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	return devcloud.Until(ctx, pollEvery, waitLimit, what, done)
}
