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
	bench *bench
	state string
	fake  bool
	began bool
	from  checkout
}

func (b *bench) newCloud(name string, fake bool) *cloud {
	return &cloud{bench: b, state: filepath.Join(b.dir, name), fake: fake}
}

func (c *cloud) env() []string { return []string{statedir.Variable + "=" + c.state} }

func (c *cloud) binary() string { return filepath.Join(c.from.dir, "bin", "nimbrel") }

func (c *cloud) run(ctx context.Context, args ...string) ([]byte, error) {
	return output(ctx, c.from.dir, c.env(), c.binary(), args...)
}

// up brings the cloud up from what a checkout built.
func (c *cloud) up(ctx context.Context, from checkout) error {
	c.from, c.began = from, true
	args := []string{"dev", "up", "--port", port, "--prefix", prefix, "--underlay", underlay, "--image", from.disk}
	if c.fake {
		args = append(args, "--fake", "--zones", "1")
	}
	_, err := c.run(ctx, args...)
	return err
}

// end takes the cloud down, whatever became of the run.
func (b *bench) end(c *cloud) {
	if !c.began {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	b.guests = append(b.guests, c.guests()...)
	_, err := c.run(ctx, "dev", "down", "--yes")
	if err == nil {
		if _, stat := os.Stat(c.state); !errors.Is(stat, os.ErrNotExist) {
			err = fmt.Errorf("`nimbrel dev down` left files in %s", c.state)
		}
	}
	if err != nil {
		b.errs = append(b.errs, fmt.Errorf("end the cloud in %s: %w", c.state, err))
	}
}

// guests are the ids of those whose directories are on the hosts.
func (c *cloud) guests() (ids []string) {
	paths, _ := filepath.Glob(filepath.Join(c.state, "hosts", "*", "guests", "i-*"))
	for _, path := range paths {
		ids = append(ids, filepath.Base(path))
	}
	return ids
}

// operator connects to the server's operator socket.
func (c *cloud) operator(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", statedir.OperatorSocket(c.state))
}

// serverMemory is the server process's resident memory now and at its highest, in MiB.
func (c *cloud) serverMemory(ctx context.Context) (now, highest float64, err error) {
	type process struct {
		Name    string
		PID     int
		Running bool
	}
	all, err := printed[[]process](ctx, c.from.dir, c.env(), c.binary(), "dev", "status", "--json")
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
	path := filepath.Join(c.bench.dir, "nimbrel-"+filepath.Base(c.state))
	text := fmt.Sprintf("#!/bin/sh\nexport %s='%s' XDG_CACHE_HOME='%s'\nexec '%s' \"$@\"\n",
		statedir.Variable, c.state, filepath.Join(c.bench.dir, "cache"), c.binary())
	return path, os.WriteFile(path, []byte(text), 0o755)
}

// residentAfterDemo runs the demo's own program, which leaves its virtual machines up, and weighs the server.
func (b *bench) residentAfterDemo(ctx context.Context, c *cloud) (float64, error) {
	progress("running the demo")
	if _, err := b.asBuilder(ctx, c.from.dir, nil, "go", "build", "-buildvcs=false", "-trimpath", "-o", "bin/demo", "./test/demo"); err != nil {
		return 0, err
	}
	here, err := c.command()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	_, err = output(ctx, c.from.dir, nil, filepath.Join(c.from.dir, "bin", "demo"), "-nimbrel", here, "-dir", filepath.Join(b.dir, "demo"))
	if err != nil {
		return 0, err
	}
	now, highest, err := c.serverMemory(ctx)
	if err == nil {
		progress("the demo took %v; the server has %.0f MiB, at most %.0f MiB", time.Since(begin).Round(time.Second), now, highest)
	}
	return now, err
}
