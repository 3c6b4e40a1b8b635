package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/host/hosttest/standin"
	"github.com/nimbrel/nimbrel/test/bench"
	"github.com/nimbrel/nimbrel/test/inventory"
)

type options struct {
	bench.Options
	binaries        []string // of different versions of nimbrel
	disk            string
	kills, upgrades int
	packets         int
	away            time.Duration
	rounds          int
	laid            int // guests of the host whose agent is started again
	figures         string
	limit           time.Duration
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
	o := options{Options: bench.Options{Part: "host"}}
	o.Flags("/var/tmp")
	var binaries string
	flag.StringVar(&binaries, "binaries", "", "two builds of nimbrel of different versions, with a comma between")
	flag.StringVar(&o.disk, "image", "build/image/disk.raw", "the guest image")
	flag.IntVar(&o.kills, "kills", 10, "times that both agents are killed")
	flag.IntVar(&o.upgrades, "upgrades", 10, "times that both agents are replaced by another version; every second one goes back")
	flag.IntVar(&o.packets, "packets", 100_000, "packets that pass meanwhile, at least")
	flag.DurationVar(&o.away, "away", 30*time.Second, "how long server and agents are dead at the end")
	flag.IntVar(&o.laid, "guests", 100, "guests of the host whose agent is started again")
	flag.IntVar(&o.rounds, "rounds", 5, "times that it is")
	flag.StringVar(&o.figures, "figures", everything, "which figures to take")
	flag.DurationVar(&o.limit, "limit", 25*time.Minute, "give up after this long")
	flag.Parse()
	o.binaries = strings.Split(binaries, ",")
	bench.Main(o.run)
}

// Validate reports the first reason why nothing can be measured here.
func (o options) Validate() error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("virtual machines need root: run `sudo make bench-host`")
	case len(o.binaries) != 2:
		return errors.New("--binaries: want two builds of nimbrel; `make bench-host` makes them")
	case o.kills < 1 || o.upgrades < 1 || o.rounds < 1 || o.laid < 1 || o.packets < 1:
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

// run is the state of one run.
type run struct {
	options
	*bench.Run
	guests []string // ids of instances that were launched
}

func (o options) run(ctx context.Context) (err error) {
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
	r, err := bench.Start(o.Options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	return r.Finish((&run{options: o, Run: r}).measure(ctx))
}

// measure takes the figures. One that cannot be had is reported, and the rest are taken all the same.
func (b *run) measure(ctx context.Context) error {
	watch := inventory.NewWatch(inventory.Options{Programs: append(inventory.CloudPrograms(), "benchhost", "bench-host")})
	if b.wants("readopt") {
		b.readopt(ctx)
	}
	if b.wants("restart") {
		b.restarts(ctx)
	}
	b.LeavesNothing(watch, b.isOurs)
	return ctx.Err()
}

// named tells what this program's cloud makes from what others on the machine do meanwhile. Machines' processes and control
// groups are told by their guests' ids.
var named = regexp.MustCompile(`\b` + prefix + `(fab|root|h[0-9]|-)|198\.18\.83\.|127\.0\.0\.1:1878[345]`)

func (b *run) isOurs(line string) bool {
	return named.MatchString(line) || strings.Contains(line, b.Dir()) ||
		slices.ContainsFunc(b.guests, func(id string) bool { return strings.Contains(line, id) })
}
