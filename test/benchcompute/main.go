// Command benchcompute measures launches: 64 clients launch one instance after the other into one subnet and one security
// group of one zone, on fake hosts in this process, while others edit the group's rules and the account's quota. The
// store is the embedded engine on a real disk.
//
// It prints how many commits had to be tried again because of another (compute.run_conflicts, which must be 0) and how
// many launches were acknowledged a second (compute.launches_per_s), and recounts every invariant at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/vpc"
)

type options struct {
	dir       string
	results   string
	hosts     int
	launchers int
	duration  time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "build", "where the store lies while this runs; must be on a disk")
	flag.StringVar(&o.results, "results", "test/bench/results", "directory to write the figures to as well")
	flag.IntVar(&o.hosts, "hosts", 60, "fake hosts")
	flag.IntVar(&o.launchers, "launchers", 64, "clients that launch at the same time")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long they launch")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchcompute:", err)
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
	dir, err := os.MkdirTemp(o.dir, "bench-compute-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	engine, err := embed.Open(filepath.Join(dir, "store"), embed.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	w, err := computetest.Open(ctx, computetest.Options{
		Engine: engine, Hosts: o.hosts, Dir: filepath.Join(dir, "images"), Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = measure(ctx, w, engine, o)
		cancel()
		w.Wait()
	}
	cancel()
	return errors.Join(err, engine.Close())
}

// tally is what the launchers did.
type tally struct {
	launches  int
	latencies []time.Duration // sorted
	elapsed   time.Duration
}

func measure(ctx context.Context, w *computetest.World, engine *embed.Engine, o options) error {
	if err := w.Widen(ctx, quotaBase); err != nil {
		return err
	}
	before := engine.Stats()
	editing, stopEditing := context.WithCancel(ctx)
	var editors sync.WaitGroup
	var edits atomic.Int64
	editors.Go(func() { editRules(editing, w, &edits) })
	editors.Go(func() { editQuota(editing, w, &edits) })
	t, err := launchAll(ctx, w, o)
	stopEditing()
	editors.Wait()
	if err != nil {
		return err
	}
	after := engine.Stats()
	if err := settle(ctx, w, t.launches); err != nil {
		return err
	}
	return report(t, before, after, edits.Load(), o)
}

// quotaBase is more than can be launched in the time.
const quotaBase = 1_000_000

// editRules adds a rule to the group that all launch into and takes it away, again and again.
func editRules(ctx context.Context, w *computetest.World, edits *atomic.Int64) {
	rules := []vpc.RuleSpec{{Protocol: 6, FromPort: 443, ToPort: 443, CIDR: netip.MustParsePrefix("0.0.0.0/0")}}
	for ctx.Err() == nil {
		_, err := w.Networks.Authorize(ctx, vpc.AuthorizeRequest{Account: w.Account, Group: w.Group, Rules: rules})
		if err == nil {
			_, err = w.Networks.Revoke(ctx, vpc.RevokeRequest{Account: w.Account, Group: w.Group, Rules: rules})
		}
		if err == nil {
			edits.Add(2)
		}
	}
}

// editQuota raises and lowers the quota that all launches charge.
func editQuota(ctx context.Context, w *computetest.World, edits *atomic.Int64) {
	for n := int64(0); ctx.Err() == nil; n++ {
		if w.Accounts.SetQuota(ctx, w.Account, account.QuotaVCPUs, quotaBase+n%2) == nil {
			edits.Add(1)
		}
	}
}

func launchAll(ctx context.Context, w *computetest.World, o options) (tally, error) {
	var (
		mu    sync.Mutex
		t     tally
		errs  []error
		group sync.WaitGroup
	)
	begin := time.Now()
	for range o.launchers {
		group.Go(func() {
			latencies, err := launchUntil(ctx, w, begin.Add(o.duration))
			mu.Lock()
			defer mu.Unlock()
			t.latencies = append(t.latencies, latencies...)
			errs = append(errs, err)
		})
	}
	group.Wait()
	t.elapsed, t.launches = time.Since(begin), len(t.latencies)
	slices.Sort(t.latencies)
	return t, errors.Join(errs...)
}

func launchUntil(ctx context.Context, w *computetest.World, end time.Time) ([]time.Duration, error) {
	var latencies []time.Duration
	for {
		begin := time.Now()
		if begin.After(end) {
			return latencies, nil
		}
		if _, err := w.Compute().RunInstances(ctx, w.Account, w.Request(1)); err != nil {
			return latencies, fmt.Errorf("launch %d of a client: %w", len(latencies)+1, err)
		}
		latencies = append(latencies, time.Since(begin))
	}
}

// settle waits until everything runs and recounts it.
func settle(ctx context.Context, w *computetest.World, launches int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	err := w.Await(ctx, func() bool {
		running, err := w.Compute().DescribeInstances(ctx, w.Account, nil, func(i *compute.Instance) bool { return i.State == compute.Running })
		return err == nil && len(running) == launches
	})
	if err != nil {
		return fmt.Errorf("wait until all instances run: %w", err)
	}
	checked, err := w.Check(ctx)
	if err != nil {
		return err
	}
	if !checked.Clean() {
		return fmt.Errorf("%d broken invariants, the first: %+v", checked.Count, checked.Findings[0])
	}
	fmt.Printf("check bench-compute.invariants ok (%d recounted)\n", len(checked.Checked))
	return nil
}

func report(t tally, before, after embed.Stats, edits int64, o options) error {
	conflicts := after.Conflicts - before.Conflicts
	for key, n := range after.ConflictKeys {
		if n > before.ConflictKeys[key] {
			fmt.Fprintf(os.Stderr, "%d conflicts on %q\n", n-before.ConflictKeys[key], key)
		}
	}
	lines := fmt.Sprintf("figure compute.run_conflicts %d count\nfigure compute.launches_per_s %.0f launches/s\n"+
		"figure compute.run_p50 %.1f ms\nfigure compute.run_p99 %.1f ms\nfigure compute.edits_meanwhile %d edits\n"+
		"figure compute.commits_per_sync %.1f commits\nfigure compute.sync_p50_below %.1f ms\n",
		conflicts, float64(t.launches)/t.elapsed.Seconds(), t.at(0.5), t.at(0.99), edits,
		float64(after.BatchCommits-before.BatchCommits)/float64(max(1, after.Batches-before.Batches)), medianSync(before, after))
	fmt.Printf("%d launches by %d clients on %d fake hosts in %v\n%s", t.launches, o.launchers, o.hosts, t.elapsed.Round(time.Millisecond), lines)
	if err := write(filepath.Join(o.results, "compute.txt"), lines); err != nil {
		return err
	}
	if conflicts != 0 {
		return fmt.Errorf("%d commits conflicted; a launch must conflict with nothing", conflicts)
	}
	return nil
}

// medianSync bounds the median time of a sync from above, in milliseconds: what the disk allowed meanwhile.
func medianSync(before, after embed.Stats) float64 {
	var seen uint64
	for i, n := range after.SyncMicros {
		if seen += n - before.SyncMicros[i]; 2*seen >= after.Batches-before.Batches {
			return float64(uint64(1)<<i) / 1000
		}
	}
	return 0
}

// at is a quantile of the latencies, in milliseconds.
func (t tally) at(quantile float64) float64 {
	if len(t.latencies) == 0 {
		return 0
	}
	return float64(t.latencies[int(quantile*float64(len(t.latencies)-1))].Microseconds()) / 1000
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}
