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
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/test/bench"
	"github.com/nimbrel/nimbrel/vpc"
)

type options struct {
	bench.Options
	hosts     int
	launchers int
	duration  time.Duration
}

func main() {
	o := options{Options: bench.Options{Part: "compute"}}
	o.Flags("build")
	flag.IntVar(&o.hosts, "hosts", 60, "fake hosts")
	flag.IntVar(&o.launchers, "launchers", 64, "clients that launch at the same time")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long they launch")
	flag.Parse()
	bench.Main(o.run)
}

func (o options) run(ctx context.Context) error {
	r, err := bench.Start(o.Options)
	if err != nil {
		return err
	}
	return r.Finish(computetest.OnDisk(ctx, r.Dir(), o.hosts, func(ctx context.Context, w *computetest.World, engine *embed.Engine) error {
		return measure(ctx, r, w, engine, o)
	}))
}

// tally is what the launchers did.
type tally struct {
	launches  int
	latencies []time.Duration
	elapsed   time.Duration
}

func measure(ctx context.Context, r *bench.Run, w *computetest.World, engine *embed.Engine, o options) error {
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
	if err := settle(ctx, r, w, t.launches); err != nil {
		return err
	}
	report(r, t, before, after, edits.Load(), o)
	return nil
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
func settle(ctx context.Context, r *bench.Run, w *computetest.World, launches int) error {
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
		err = fmt.Errorf("%d broken invariants, the first: %+v", checked.Count, checked.Findings[0])
	}
	r.Check("invariants", fmt.Sprintf("%d recounted", len(checked.Checked)), err)
	return nil
}

func report(r *bench.Run, t tally, before, after embed.Stats, edits int64, o options) {
	conflicts := after.Conflicts - before.Conflicts
	for key, n := range after.ConflictKeys {
		if n > before.ConflictKeys[key] {
			bench.Progress("%d conflicts on %q", n-before.ConflictKeys[key], key)
		}
	}
	bench.Progress("%d launches by %d clients on %d fake hosts in %v", t.launches, o.launchers, o.hosts, t.elapsed.Round(time.Millisecond))
	r.AtMost(bench.Figure{Name: "run_conflicts", Value: float64(conflicts), Unit: "count", Detail: fmt.Sprintf("of=%d", t.launches)}, 0, nil)
	perSync := float64(after.BatchCommits-before.BatchCommits) / float64(max(1, after.Batches-before.Batches))
	for _, f := range []bench.Figure{
		{Name: "launches_per_s", Value: float64(t.launches) / t.elapsed.Seconds(), Unit: "launches/s"},
		{Name: "run_p50", Value: bench.Milliseconds(bench.Median(t.latencies)), Unit: "ms"},
		{Name: "run_p99", Value: bench.Milliseconds(bench.Quantile(t.latencies, 0.99)), Unit: "ms"},
		{Name: "edits_meanwhile", Value: float64(edits), Unit: "edits"},
		{Name: "commits_per_sync", Value: perSync, Unit: "commits"},
		{Name: "sync_p50_below", Value: medianSync(before, after), Unit: "ms"},
	} {
		r.Print(f)
	}
}

// medianSync bounds the median time of the engine's syncs from above, in milliseconds: what the disk allowed under load.
func medianSync(before, after embed.Stats) float64 {
	var seen uint64
	for i, n := range after.SyncMicros {
		if seen += n - before.SyncMicros[i]; 2*seen >= after.Batches-before.Batches {
			return float64(uint64(1)<<i) / 1000
		}
	}
	return 0
}
