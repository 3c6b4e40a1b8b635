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

func main() {
	o := options{Options: bench.Options{Part: "ec2"}}
	o.Flags("build")
	flag.IntVar(&o.instances, "instances", 100_000, "instances in the account; the figures' names hold for the default only")
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
	bench.Progress("%d instances launched in %v", o.instances, time.Since(began).Round(time.Second))
	many, err := openClient(ctx, w, w.Account)
	if err != nil {
		return err
	}
	if err := many.pages(r, o); err != nil {
		return err
	}
	if err := many.lookups(r); err != nil {
		return err
	}
	other, err := many.neighbour(ctx, w)
	if err != nil {
		return err
	}
	return noisy(ctx, many, other, r, o)
}
