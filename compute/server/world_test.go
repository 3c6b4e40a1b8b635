package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/svc/obs/obstest"
)

// world is a computetest.World in a test: what fails fails the test, and every invariant holds at its end.
type world struct {
	*computetest.World
	t     *testing.T
	ctx   context.Context
	clock *computetest.Clock
}

// newWorld makes a world with n hosts; edit may change its options.
func newWorld(t *testing.T, n int, edit ...func(*computetest.Options)) *world {
	t.Helper()
	clock := computetest.NewClock()
	engine := storetest.NewMemory()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	o := computetest.Options{Engine: engine, Clock: clock, Hosts: n, Dir: t.TempDir(), Log: obstest.Logger(t)}
	for _, fn := range edit {
		fn(&o)
	}
	opened, err := computetest.Open(ctx, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	w := &world{World: opened, t: t, ctx: ctx, clock: clock}
	t.Cleanup(func() {
		w.check()
		cancel()
		w.Wait()
		engine.Close()
	})
	return w
}

// in is the same world for a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// check recounts everything.
func (w *world) check() {
	w.t.Helper()
	report, err := w.Check(w.ctx)
	if err != nil {
		w.t.Errorf("check: %v", err)
	}
	for _, f := range report.Findings {
		w.t.Errorf("%s: %s %s", f.Invariant, f.Subject, f.Detail)
	}
}

// launch runs a request that must succeed.
func (w *world) launch(r compute.RunRequest) compute.Reservation {
	w.t.Helper()
	out, err := w.Compute().RunInstances(w.ctx, w.Account, r)
	if err != nil {
		w.t.Fatalf("run instances: %v", err)
	}
	return out
}

// running launches n small instances and waits until they run.
func (w *world) running(n int) []ids.Instance {
	w.t.Helper()
	list := idsOf(w.launch(w.Request(n)).Instances)
	w.await(compute.Running, list...)
	return list
}

func idsOf(instances []*compute.Instance) []ids.Instance {
	var out []ids.Instance
	for _, i := range instances {
		out = append(out, i.ID)
	}
	return out
}

// get describes one instance; nil when it is not found.
func (w *world) get(id ids.Instance) *compute.Instance {
	w.t.Helper()
	found, err := w.Compute().DescribeInstances(w.ctx, w.Account, []ids.Instance{id}, nil)
	var missing *compute.NotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		w.t.Fatalf("describe %s: %v", id, err)
	}
	return found[0]
}

// await waits until all instances are in a state.
func (w *world) await(s compute.State, list ...ids.Instance) {
	w.t.Helper()
	w.until("instances are "+s.String(), func() bool {
		for _, id := range list {
			if i := w.get(id); i == nil || i.State != s {
				return false
			}
		}
		return true
	})
}

func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	if err := w.Await(w.ctx, done); err != nil {
		for _, i := range w.all() {
			w.t.Logf("%s is %s on %s: %s", i.ID, i.State, i.Host, i.Reason.Message)
		}
		w.t.Fatalf("waiting until %s: %v", what, err)
	}
}

// all describes every instance of the account, whatever the test's context.
func (w *world) all() []*compute.Instance {
	out, err := w.Compute().DescribeInstances(context.Background(), w.Account, nil, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// told waits until an instance's host was told something of it.
func (w *world) told(what string, id ids.Instance, is func(host.Instance) bool) {
	w.t.Helper()
	h := w.get(id).Host
	w.until("the host is told "+what, func() bool {
		item, told := w.Fleet.Instance(h, id)
		return told && is(item)
	})
}

// stop, start, reboot and terminate must succeed.
func (w *world) terminate(list ...ids.Instance) []compute.StateChange {
	w.t.Helper()
	changes, err := w.Compute().TerminateInstances(w.ctx, w.Account, list)
	if err != nil {
		w.t.Fatalf("terminate: %v", err)
	}
	return changes
}

func (w *world) stop(list ...ids.Instance) {
	w.t.Helper()
	if _, err := w.Compute().StopInstances(w.ctx, w.Account, list, false); err != nil {
		w.t.Fatalf("stop: %v", err)
	}
}

func (w *world) start(list ...ids.Instance) {
	w.t.Helper()
	if _, err := w.Compute().StartInstances(w.ctx, w.Account, list); err != nil {
		w.t.Fatalf("start: %v", err)
	}
}

// left is what a host has left.
func (w *world) left(h ids.Host) compute.Host {
	w.t.Helper()
	hosts, err := w.Compute().Hosts(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, one := range hosts {
		if one.ID == h {
			return one
		}
	}
	w.t.Fatalf("host %s is not listed", h)
	return compute.Host{}
}

// resize makes the hosts offer something else.
func (w *world) resize(edit func(*host.Info), hosts ...int) {
	w.t.Helper()
	for _, n := range hosts {
		info := computetest.Info(n, computetest.Zone)
		edit(&info)
		w.Fleet.AddHost(info)
		w.until("host is resized", func() bool { return w.left(info.ID).VCPUs == info.VCPUs && w.left(info.ID).MemoryMiB == info.MemoryMiB })
	}
}

// counting is an engine that counts conflicts and lets the test stop all commits.
type counting struct {
	store.Engine
	before func(*store.Commit) error
	after  func(*store.Commit, *store.Answer)
}

func (c *counting) Commit(ctx context.Context, commit *store.Commit) (*store.Answer, error) {
	if c.before != nil {
		if err := c.before(commit); err != nil {
			return nil, err
		}
	}
	answer, err := c.Engine.Commit(ctx, commit)
	if err == nil && c.after != nil {
		c.after(commit, answer)
	}
	return answer, err
}

func mustContain(t *testing.T, what, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%s is %q, want it to contain %q", what, text, part)
	}
}
