// Command benchec2 measures the tenants' door, at its handler: in this process, with real parts and fake hosts, on the
// embedded store.
//
// It launches 100,000 instances in one account and walks their pages of 1,000 (ec2.describe_page_1000_of_100k_p99_ms), asks
// by tag, address, subnet and id, and then lets that account send 10,000 describes a second, whether they are answered or
// not, while another account describes its own instance every 10 ms (ec2.noisy_neighbour_p99_ratio: that account's 99th
// percentile with the flood by that without, each the median of the rounds, which alternate). Limits are the server's
// defaults. A latency is from when a request was due. Requests are signed before they are timed.
package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/test/bench"
)

// Goals. A figure above its goal fails its check.
const (
	pageGoalMs = 20
	noisyGoal  = 1.5
)

type options struct {
	bench.Options
	instances, rounds int
	round             time.Duration
	flood             int
}

// size is how many instances there are, for the names of figures.
func (o options) size() string {
	if o.instances%1000 == 0 {
		return fmt.Sprintf("%dk", o.instances/1000)
	}
	return fmt.Sprint(o.instances)
}

func main() {
	o := options{Options: bench.Options{Part: "ec2"}}
	o.Flags("build")
	flag.IntVar(&o.instances, "instances", 100_000, "instances in the account; the goals are for the default")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds with and without the flood, each")
	flag.DurationVar(&o.round, "round", 5*time.Second, "how long a round is")
	flag.IntVar(&o.flood, "flood", 10_000, "describes a second of the noisy account")
	flag.Parse()
	bench.Main(o.run)
}

func (o options) run(ctx context.Context) error {
	r, err := bench.Start(o.Options)
	if err != nil {
		return err
	}
	hosts := o.instances/instancesPerHost + 1
	return r.Finish(computetest.OnDisk(ctx, r.Dir(), hosts, func(ctx context.Context, w *computetest.World, _ *embed.Engine) error {
		return measure(ctx, r, w, o)
	}))
}

func measure(ctx context.Context, r *bench.Run, w *computetest.World, o options) error {
	began := time.Now()
	if err := fill(ctx, w, o.instances); err != nil {
		return err
	}
	launched := time.Since(began)
	if err := settle(ctx, w); err != nil {
		return fmt.Errorf("wait for running instances: %w", err)
	}
	bench.Progress("%d instances launched in %v, running after %v", o.instances, launched.Round(time.Second), time.Since(began).Round(time.Second))
	many, err := openClient(ctx, w, w.Account)
	if err != nil {
		return err
	}
	if err := many.pages(r, o); err != nil {
		return err
	}
	if err := many.lookups(r, o); err != nil {
		return err
	}
	other, err := many.neighbour(ctx, w)
	if err != nil {
		return err
	}
	return noisy(ctx, many, other, r, o)
}
