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
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/store/embed"
)

// Goals. A figure above its goal fails its check.
const (
	pageGoalMs = 20
	noisyGoal  = 1.5
)

type options struct {
	dir, results      string
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
	var o options
	flag.StringVar(&o.dir, "dir", "build", "where the store lies while this runs; must be on a disk")
	flag.StringVar(&o.results, "results", "test/bench/results", "directory to write the figures to as well")
	flag.IntVar(&o.instances, "instances", 100_000, "instances in the account; the goals are for the default")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds with and without the flood, each")
	flag.DurationVar(&o.round, "round", 5*time.Second, "how long a round is")
	flag.IntVar(&o.flood, "flood", 10_000, "describes a second of the noisy account")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchec2:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if err := checkDisk(o.dir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "bench-ec2-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	engine, err := embed.Open(filepath.Join(dir, "store"), embed.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	hosts := o.instances/instancesPerHost + 1
	w, err := computetest.Open(ctx, computetest.Options{Engine: engine, Hosts: hosts, Dir: filepath.Join(dir, "images"), Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = measure(ctx, w, o)
		cancel()
		w.Wait()
	}
	cancel()
	return errors.Join(err, engine.Close())
}

func measure(ctx context.Context, w *computetest.World, o options) error {
	began := time.Now()
	if err := fill(ctx, w, o.instances); err != nil {
		return err
	}
	launched := time.Since(began)
	if err := settle(ctx, w); err != nil {
		return fmt.Errorf("wait for running instances: %w", err)
	}
	fmt.Printf("%d instances launched in %v, running after %v\n", o.instances, launched.Round(time.Second), time.Since(began).Round(time.Second))
	many, err := openClient(ctx, w, w.Account)
	if err != nil {
		return err
	}
	r := &report{}
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
	if err := noisy(ctx, many, other, r, o); err != nil {
		return err
	}
	return r.finish(o.results)
}
