package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/test/bench"
	"github.com/nimbrel/nimbrel/test/devcloud"
)

// Where this program's clouds are, so that they never meet the one that a person runs.
const (
	prefix   = "nbb"
	underlay = "198.18.79.0/24"
	port     = "18773"
)

// downLimit bounds the end of a cloud, also after the run's own limit is over.
const downLimit = 2 * time.Minute

// cloud is one cloud of `nimbrel dev` in a state directory of its own.
type cloud struct {
	devcloud.Cloud
	run   *run
	fake  bool
	began bool
	from  checkout
}

func (b *run) newCloud(name string, fake bool) *cloud {
	return &cloud{run: b, fake: fake, Cloud: devcloud.Cloud{
		State: filepath.Join(b.Dir(), name), Place: devcloud.Place{Port: port, Prefix: prefix, Underlay: underlay},
	}}
}

// up brings the cloud up from what a checkout built.
func (c *cloud) up(ctx context.Context, from checkout) error {
	c.from, c.began, c.Nimbrel = from, true, filepath.Join(from.dir, "bin", "nimbrel")
	args := []string{"--image", from.disk}
	if c.fake {
		args = append(args, "--fake", "--zones", "1")
	}
	return c.Up(ctx, args...)
}

// end takes the cloud down, whatever became of the run.
func (b *run) end(ctx context.Context, c *cloud) {
	if !c.began {
		return
	}
	for _, folder := range c.GuestFolders() {
		b.guests = append(b.guests, filepath.Base(folder))
	}
	err := c.Down(ctx, downLimit)
	if err == nil {
		if _, stat := os.Stat(c.State); !errors.Is(stat, os.ErrNotExist) {
			err = fmt.Errorf("`nimbrel dev down` left files in %s", c.State)
		}
	}
	if err != nil {
		b.Check("cloud_ends", "", fmt.Errorf("end the cloud in %s: %w", c.State, err))
	}
}

// operator connects to the server's operator socket.
func (c *cloud) operator(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", statedir.OperatorSocket(c.State))
}

// serverMemory is the server process's resident memory now and at its highest, in MiB.
func (c *cloud) serverMemory(ctx context.Context) (now, highest float64, err error) {
	all, err := c.Processes(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range all {
		if p.Name == "server" && p.Running {
			return memory(p.PID)
		}
	}
	return 0, 0, errors.New("`nimbrel dev status` lists no running server")
}

func memory(pid int) (now, highest float64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			if kib, err := strconv.ParseFloat(f[1], 64); err == nil {
				values[f[0]] = kib / 1024
			}
		}
	}
	if values["VmRSS:"] == 0 {
		return 0, 0, fmt.Errorf("process %d: no VmRSS in its status", pid)
	}
	return values["VmRSS:"], values["VmHWM:"], nil
}

// command makes an executable that is nimbrel for this cloud, also with an empty environment, which the demo tries. The
// guests' host keys are remembered in the cache directory: of this run and not of the person.
func (c *cloud) command() (string, error) {
	path := filepath.Join(c.run.Dir(), "nimbrel-"+filepath.Base(c.State))
	text := fmt.Sprintf("#!/bin/sh\nexport %s='%s' XDG_CACHE_HOME='%s'\nexec '%s' \"$@\"\n",
		statedir.Variable, c.State, filepath.Join(c.run.Dir(), "cache"), c.Nimbrel)
	return path, os.WriteFile(path, []byte(text), 0o755)
}

// residentAfterDemo runs the demo's own program, which leaves its virtual machines up, and weighs the server.
func (b *run) residentAfterDemo(ctx context.Context, c *cloud) (float64, error) {
	bench.Progress("running the demo")
	if _, err := b.asBuilder(ctx, c.from.dir, nil, "go", "build", "-buildvcs=false", "-trimpath", "-o", "bin/demo", "./test/demo"); err != nil {
		return 0, err
	}
	here, err := c.command()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	_, err = devcloud.Output(ctx, c.from.dir, nil, filepath.Join(c.from.dir, "bin", "demo"), "-nimbrel", here, "-dir", filepath.Join(b.Dir(), "demo"))
	if err != nil {
		return 0, err
	}
	now, highest, err := c.serverMemory(ctx)
	if err == nil {
		bench.Progress("the demo took %v; the server has %.0f MiB, at most %.0f MiB", time.Since(begin).Round(time.Second), now, highest)
	}
	return now, err
}
