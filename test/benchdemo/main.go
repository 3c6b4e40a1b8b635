// Command benchdemo measures what a person meets in the first minutes, on a cloud of its own beside any other:
//
//   - demo.clone_to_running_warm_s: a fresh clone, built, its image made, two hosts brought up and one instance running
//     at the server, with packages and Go's caches present; demo.clone_to_running_cold_s with empty build and image caches
//   - demo.boot_over_bare_qemu: from the machine process's start to the first ssh banner through the cloud's own path,
//     over the same under plain QEMU with user networking, in turns
//   - demo.rss_mib: the server's resident memory after the demo, its virtual machines up
//   - demo.run_accept_over_fsync: RunInstances at the server's door over a write and sync of 4 KiB at the same time, on
//     fake hosts so that virtual machines take no part
//
// It measures the commit that is checked out, not the working tree. Figures and checks go to standard output and to a
// file, progress to standard error. It refuses to measure in memory or on a disk that stalls, ends its clouds however it
// ends, and checks that they left nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/test/bench"
)

// Goals. A figure above its goal fails its check.
const (
	bootGoal     = 1.5
	acceptGoal   = 10
	warmGoal     = 60
	residentGoal = 300
)

type options struct {
	bench.Options
	source           string
	rounds, launches int
	figures          string
	limit            time.Duration
}

func main() {
	o := options{Options: bench.Options{Part: "demo"}}
	o.Flags("/var/tmp")
	flag.StringVar(&o.source, "source", ".", "checkout to clone from")
	flag.IntVar(&o.rounds, "rounds", 5, "boots in the cloud and under plain QEMU, each; at least 3")
	flag.IntVar(&o.launches, "launches", 60, "launches on fake hosts; 50 to 64, the quota of an account")
	flag.StringVar(&o.figures, "figures", everything, "which to take besides the warm clone's")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "give up after this long")
	flag.Parse()
	bench.Main(o.run)
}

// everything names the figures that are optional.
const everything = "boot,rss,accept,cold"

func (o options) wants(name string) bool { return slices.Contains(strings.Split(o.figures, ","), name) }

// Validate reports the first reason why nothing can be measured here.
func (o options) Validate() error {
	switch {
	case o.rounds < 3 || o.rounds > 20:
		return fmt.Errorf("--rounds %d: want 3 to 20", o.rounds)
	case o.launches < 50 || o.launches > 64:
		return fmt.Errorf("--launches %d: want 50 to 64", o.launches)
	case slices.ContainsFunc(strings.Split(o.figures, ","), func(name string) bool { return !slices.Contains(strings.Split(everything, ","), name) }):
		return fmt.Errorf("--figures %q: want some of %s", o.figures, everything)
	case runtime.GOOS != "linux" || os.Geteuid() != 0:
		return errors.New("virtual machines need root on Linux: run `sudo make bench-demo` there")
	}
	for program, debian := range map[string]string{"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "git": "git", "aws": "awscli"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("no %s on the PATH: run `sudo make demo` once, or install Debian's %s", program, debian)
		}
	}
	return nil
}

func (o options) run(ctx context.Context) (err error) {
	if err := o.Validate(); err != nil {
		return err
	}
	if o.source, err = filepath.Abs(o.source); err != nil {
		return err
	}
	r, err := bench.Start(o.Options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	return r.Finish((&run{options: o, Run: r}).measure(ctx))
}

// run is the state of one run.
type run struct {
	options
	*bench.Run
	built checkout // by the warm clone; empty when that failed
	// guests are all instances that were launched, by this program and by the demo.
	guests []string
}

// measure takes all figures. A figure that cannot be had is reported, and the rest are taken all the same.
func (b *run) measure(ctx context.Context) error {
	begun := time.Now()
	watch := watchMachine()
	b.onRealHosts(ctx)
	if b.built.disk != "" && b.wants("accept") {
		b.onFakeHosts(ctx)
	}
	if b.wants("cold") && ctx.Err() == nil {
		b.coldClone(ctx)
	}
	b.LeavesNothing(watch, b.isOurs)
	took := time.Since(begun).Round(time.Second)
	bench.Progress("done in %v", took)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted after %v: %w", took, ctx.Err())
	}
	return nil
}

// onRealHosts takes the figures of one cloud with virtual machines.
func (b *run) onRealHosts(ctx context.Context) {
	c := b.newCloud("real", false)
	defer b.end(ctx, c)
	err := b.fillCaches(ctx)
	var took time.Duration
	if err == nil {
		took, b.built, err = b.cloneToRunning(ctx, c, "warm", nil)
	}
	b.AtMost(bench.Figure{Name: "clone_to_running_warm_s", Value: took.Seconds(), Unit: "s"}, warmGoal, err)
	if err != nil {
		return
	}
	if b.wants("boot") {
		b.boots(ctx, c)
	}
	if b.wants("rss") {
		rss, err := b.residentAfterDemo(ctx, c)
		b.AtMost(bench.Figure{Name: "rss_mib", Value: rss, Unit: "MiB"}, residentGoal, err)
	}
}

func (b *run) onFakeHosts(ctx context.Context) {
	c := b.newCloud("fake", true)
	defer b.end(ctx, c)
	f, err := b.acceptOverSync(ctx, c)
	f.Name = acceptFigure // also of no figure
	b.AtMost(f, acceptGoal, err)
}

// coldClone prints its figure; how fast a compiler starts from nothing is no promise of ours.
func (b *run) coldClone(ctx context.Context) {
	c := b.newCloud("cold", false)
	defer b.end(ctx, c)
	caches, err := b.emptyCaches()
	if err == nil {
		var took time.Duration
		took, _, err = b.cloneToRunning(ctx, c, "cold", caches)
		if err == nil {
			b.Print(bench.Figure{Name: "clone_to_running_cold_s", Value: took.Seconds(), Unit: "s"})
		}
	}
	b.Check("clone_with_empty_caches", "", err)
}
