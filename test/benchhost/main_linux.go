package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/host/hosttest/standin"
)

type options struct {
	binaries           []string // of different versions of nimbrel
	disk, dir, results string
	kills, upgrades    int
	packets            int
	away               time.Duration
	rounds, guests     int
	figures            string
	limit              time.Duration
}

// everything names the figures.
const everything = "restart,readopt"

func (o options) wants(name string) bool { return slices.Contains(strings.Split(o.figures, ","), name) }

func main() {
	if served, err := standin.Serve(os.Args, os.Stdout); served {
		if err != nil {
			fmt.Fprintln(os.Stderr, "benchhost:", err)
			os.Exit(1)
		}
		return
	}
	agentMain()
	var o options
	var binaries string
	flag.StringVar(&binaries, "binaries", "", "two builds of nimbrel of different versions, with a comma between")
	flag.StringVar(&o.disk, "image", "build/image/disk.raw", "the guest image")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "where the cloud lies while this runs")
	flag.StringVar(&o.results, "results", "test/bench/results", "directory to write the figures to as well")
	flag.IntVar(&o.kills, "kills", 10, "times that both agents are killed")
	flag.IntVar(&o.upgrades, "upgrades", 10, "times that both agents are replaced by another version; every second one goes back")
	flag.IntVar(&o.packets, "packets", 100_000, "packets that pass meanwhile, at least")
	flag.DurationVar(&o.away, "away", 30*time.Second, "how long server and agents are dead at the end")
	flag.IntVar(&o.guests, "guests", 100, "guests of the host whose agent is started again")
	flag.IntVar(&o.rounds, "rounds", 5, "times that it is")
	flag.StringVar(&o.figures, "figures", everything, "which figures to take")
	flag.DurationVar(&o.limit, "limit", 25*time.Minute, "give up after this long")
	flag.Parse()
	o.binaries = strings.Split(binaries, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchhost:", err)
		os.Exit(1)
	}
}

// Validate reports the first reason why nothing can be measured here.
func (o options) Validate() error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("virtual machines need root: run `sudo make bench-host`")
	case len(o.binaries) != 2:
		return errors.New("--binaries: want two builds of nimbrel; `make bench-host` makes them")
	case o.kills < 1 || o.upgrades < 1 || o.rounds < 1 || o.guests < 1 || o.packets < 1:
		return errors.New("counts: want at least 1 of each")
	case o.away < 15*time.Second:
		return fmt.Errorf("--away %v: want at least 15s, for flows to begin and be refused in", o.away)
	case slices.ContainsFunc(strings.Split(o.figures, ","), func(name string) bool { return !slices.Contains(strings.Split(everything, ","), name) }):
		return fmt.Errorf("--figures %q: want some of %s", o.figures, everything)
	}
	for _, program := range []string{"qemu-system-x86_64", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("no %s on the PATH: run `sudo make demo` once, which installs it", program)
		}
	}
	for _, path := range append([]string{o.disk}, o.binaries...) {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: `make bench-host` makes it", err)
		}
	}
	return nil
}

// bench is the state of one run.
type bench struct {
	options
	dir    string
	lines  []string
	guests []string // ids of instances that were launched
	errs   []error
}

func run(ctx context.Context, o options) (err error) {
	if err := o.Validate(); err != nil {
		return err
	}
	for i, path := range o.binaries {
		if o.binaries[i], err = filepath.Abs(path); err != nil {
			return err
		}
	}
	if o.disk, err = filepath.Abs(o.disk); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, prefix+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // guests' users pass through
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	b := &bench{options: o, dir: dir}
	before := inventoryNow()
	if b.wants("readopt") {
		b.readopt(ctx)
	}
	if b.wants("restart") {
		b.restarts(ctx)
	}
	b.check("bench_leaves_nothing", leftSince(before, b.guests))
	return errors.Join(append(b.errs, b.write(), ctx.Err())...)
}
