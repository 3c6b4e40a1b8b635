package server_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// walk reads all pages.
func (w *world) walk(limit int, where ...compute.Condition) (found []ids.Instance) {
	w.t.Helper()
	p := compute.Page{Limit: limit, Where: where}
	for {
		page, next, err := w.Compute().PageInstances(w.ctx, w.Account, p)
		if err != nil || len(page) > limit {
			w.t.Fatalf("%d of at most %d: %v", len(page), limit, err)
		}
		for _, i := range page {
			found = append(found, i.ID)
		}
		if next == "" {
			return found
		}
		p.After = next
	}
}

// scan is what the indexes are compared with: a look at every instance.
func (w *world) scan(keep func(*compute.Instance) bool) (found []ids.Instance) {
	w.t.Helper()
	all, err := w.Compute().DescribeInstances(w.ctx, w.Account, nil, keep)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range all {
		found = append(found, i.ID)
	}
	return found
}

// TestPagesFollowChanges holds that the indexes find what a look at every instance finds, after each of many changes, and
// that each change is there for the read that follows it.
func TestPagesFollowChanges(t *testing.T) {
	w := newWorld(t, 2)
	r := rand.New(rand.NewPCG(1, 2))
	var all []ids.Instance
	for round := range 40 {
		switch {
		case round%4 == 0:
			request := w.Request(1 + r.IntN(4))
			request.InstanceTags = map[string]string{"round": fmt.Sprint(round % 8), "name": "x"}
			for _, i := range w.launch(request).Instances {
				all = append(all, i.ID)
			}
		case round%4 == 1:
			w.tag(all[r.IntN(len(all))], "round", fmt.Sprint(r.IntN(8)))
		case round%4 == 2:
			if err := w.Accounts.Tags().DeleteTags(w.ctx, w.Account, []string{string(all[r.IntN(len(all))])}, nil); err != nil {
				t.Fatal(err)
			}
		default:
			if _, err := w.Compute().TerminateInstances(w.ctx, w.Account, []ids.Instance{all[r.IntN(len(all))]}); err != nil {
				t.Fatal(err)
			}
		}
		w.comparePages(all[r.IntN(len(all))])
	}
}

func (w *world) tag(id ids.Instance, key, value string) {
	w.t.Helper()
	if err := w.Accounts.Tags().CreateTags(w.ctx, w.Account, []string{string(id)}, map[string]string{key: value}); err != nil {
		w.t.Fatal(err)
	}
}

// comparePages asks in every way that has an index. Hosts work meanwhile, so a state may change between two reads: what
// differs is compared again.
func (w *world) comparePages(one ids.Instance) {
	w.t.Helper()
	it, err := w.Compute().DescribeInstances(w.ctx, w.Account, []ids.Instance{one}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	address := it[0].PrivateIP
	for name, q := range map[string]struct {
		where []compute.Condition
		keep  func(*compute.Instance) bool
	}{
		"all":     {nil, nil},
		"state":   {is(compute.ByState, "running"), func(i *compute.Instance) bool { return i.State == compute.Running }},
		"states":  {is(compute.ByState, "running", "terminated", "running"), func(i *compute.Instance) bool { return i.State == compute.Running || i.State == compute.Terminated }},
		"vpc":     {is(compute.ByVPC, string(w.VPC)), nil},
		"no vpc":  {is(compute.ByVPC, "vpc-0"), func(*compute.Instance) bool { return false }},
		"subnet":  {is(compute.BySubnet, string(w.Subnet)), nil},
		"image":   {is(compute.ByImage, string(w.Image)), nil},
		"id":      {is(compute.ByID, "i-0", string(one)), func(i *compute.Instance) bool { return i.ID == one }},
		"address": {is(compute.ByAddress, address.String()), func(i *compute.Instance) bool { return address.IsValid() && i.PrivateIP == address }},
		"tag":     {is(compute.ByTag("round"), "0", "3"), func(i *compute.Instance) bool { return i.Tags["round"] == "0" || i.Tags["round"] == "3" }},
		"tags": {append(is(compute.ByTag("round"), "4"), is(compute.ByTag("name"), "x")...), func(i *compute.Instance) bool {
			return i.Tags["round"] == "4" && i.Tags["name"] == "x"
		}},
		"tag and id": {append(is(compute.ByTag("name"), "x"), is(compute.ByID, string(one))...), func(i *compute.Instance) bool { return i.ID == one && i.Tags["name"] == "x" }},
	} {
		var got, want []ids.Instance
		err := w.Await(w.ctx, func() bool {
			got, want = w.walk(3, q.where...), w.scan(q.keep)
			return slices.Equal(got, want)
		})
		if err != nil {
			w.t.Fatalf("by %s: %v: got %v, want %v", name, err, got, want)
		}
	}
}

func is(p compute.Property, values ...string) []compute.Condition {
	return []compute.Condition{{Property: p, Values: values}}
}

// TestPageLooksFurther holds that a page goes on behind what it may look at under one lock.
func TestPageLooksFurther(t *testing.T) {
	w := newWorld(t, 30)
	if err := w.Widen(w.ctx, 3000); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		w.launch(w.Request(30))
	}
	want := w.scan(nil)
	last := want[len(want)-1]
	w.tag(last, "which", "last")
	w.tag(want[0], "which", "first")
	if got := w.walk(1000); !slices.Equal(got, want) {
		t.Errorf("%d of %d instances", len(got), len(want))
	}
	if got := w.walk(1000, is(compute.ByTag("which"), "last", "first")...); !slices.Equal(got, []ids.Instance{want[0], last}) {
		t.Errorf("tagged: %v", got)
	}
}
