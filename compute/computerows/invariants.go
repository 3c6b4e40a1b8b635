package computerows

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/svc/op"
)

// stuckAfter is how much longer than compute.PendingLimit an instance may be pending before nobody can be driving it.
const stuckAfter = 5 * time.Minute

// Invariants returns what must hold of this part's rows.
func Invariants() []check.Invariant {
	return []check.Invariant{
		{
			Name:  "compute.capacity",
			Doc:   "What is left of each resource of a host, plus what its placements hold, is what the host offers.",
			Check: withCensus(checkCapacity),
		},
		{
			Name:  "compute.placements",
			Doc:   "A placement is of an instance that is or was there and not released, or of a disk that was kept; every such instance has one.",
			Check: withCensus(checkPlacements),
		},
		{
			Name:  "compute.items",
			Doc:   "An instance is in its host's document exactly as its row says while it is not terminating, and in no other.",
			Check: withCensus(checkItems),
		},
		{
			Name:  "compute.volumes",
			Doc:   "Every instance that its host still holds has its root volume, and every volume its instance or its host.",
			Check: withCensus(checkVolumes),
		},
		{
			Name:  "compute.owners",
			Doc:   "Every instance and volume is guarded by exactly one owner's row.",
			Check: withCensus(checkOwners),
		},
		{
			Name:  "compute.pending",
			Doc:   "No instance is pending for longer than the limit: someone drives it.",
			Check: withCensus(checkPending),
		},
		{
			Name:  "compute.operations",
			Doc:   "A running operation on an instance is the one that the instance names.",
			Check: withCensus(checkOperations),
		},
		{
			Name:  "compute.tokens",
			Doc:   "A launch's client token leads to instances that have rows.",
			Check: withCensus(checkTokens),
		},
		accountrows.QuotaInvariant("compute.vcpu-quota", account.QuotaVCPUs, count(func(i *Instance) int64 {
			if lifecycle.ChargesVCPU(i.State) {
				return int64(i.VCPUs)
			}
			return 0
		})),
		accountrows.QuotaInvariant("compute.instance-quota", account.QuotaInstances, count(func(i *Instance) int64 {
			if lifecycle.ChargesInstance(i.State) {
				return 1
			}
			return 0
		})),
		accountrows.QuotaInvariant("compute.volume-quota", account.QuotaVolumes, chargedVolumes),
		tagrows.Invariant("compute.tags", func(ctx context.Context, r store.Reader, a ids.Account, resource string) (bool, bool, error) {
			if !strings.HasPrefix(resource, "i-") && !strings.HasPrefix(resource, "vol-") {
				return false, false, nil
			}
			_, found, err := r.Get(ctx, ownedKey(a, resource).Base)
			return true, found, err
		}),
	}
}

// census is every row of the part.
type census struct {
	instances  map[ids.Instance]*Instance
	volumes    map[ids.Volume]*Volume
	hosts      map[ids.Host]*Host
	left       map[ids.Host]fit.Size
	placements map[ids.Host]map[string]*Placement
	owned      map[string]int
}

type reportFunc = func(subject, detail string)

func withCensus(fn func(context.Context, store.Reader, *census, reportFunc) error) func(context.Context, store.Reader, reportFunc) error {
	return func(ctx context.Context, r store.Reader, report reportFunc) error {
		c, err := takeCensus(ctx, r)
		if err != nil {
			return err
		}
		return fn(ctx, r, c, report)
	}
}

func takeCensus(ctx context.Context, r store.Reader) (*census, error) {
	c := &census{
		instances: map[ids.Instance]*Instance{}, volumes: map[ids.Volume]*Volume{}, hosts: map[ids.Host]*Host{},
		left: map[ids.Host]fit.Size{}, placements: map[ids.Host]map[string]*Placement{}, owned: map[string]int{},
	}
	err := check.Scan(ctx, r, Prefix(), func(kv store.KV) error {
		row, err := Parse(store.Change{Key: kv.Key, Value: kv.Value})
		if err == nil {
			c.add(row)
		}
		return err
	})
	return c, err
}

func (c *census) add(row Change) {
	switch row.Table {
	case "instance":
		c.instances[row.Instance.ID] = row.Instance
	case "volume":
		c.volumes[row.Volume.ID] = row.Volume
	case "host":
		c.hosts[row.Host] = row.HostRow
	case "left":
		c.left[row.Host] = c.left[row.Host].With(row.Resource, row.Left)
	case "place":
		if c.placements[row.Host] == nil {
			c.placements[row.Host] = map[string]*Placement{}
		}
		c.placements[row.Host][row.ID] = row.Placement
	case "owned":
		c.owned[row.ID]++
	}
}

func count(of func(*Instance) int64) func(context.Context, store.Reader) (map[ids.Account]int64, error) {
	return func(ctx context.Context, r store.Reader) (map[ids.Account]int64, error) {
		c, err := takeCensus(ctx, r)
		if err != nil {
			return nil, err
		}
		used := map[ids.Account]int64{}
		for _, i := range c.instances {
			used[i.Account] += of(i)
		}
		return used, nil
	}
}

func chargedVolumes(ctx context.Context, r store.Reader) (map[ids.Account]int64, error) {
	c, err := takeCensus(ctx, r)
	if err != nil {
		return nil, err
	}
	used := map[ids.Account]int64{}
	for _, v := range c.volumes {
		if v.Charged {
			used[v.Account]++
		}
	}
	return used, nil
}

func checkCapacity(_ context.Context, _ store.Reader, c *census, report reportFunc) error {
	for id, left := range c.left {
		h := c.hosts[id]
		if h == nil {
			report(string(id), "counters of a host that has no row")
			continue
		}
		sum := left
		for _, p := range c.placements[id] {
			sum = sum.Add(p.Size)
		}
		if h.Draining {
			sum.Slots += fit.DrainWeight
		}
		if offer := h.Capacity(); sum != offer {
			report(string(id), fmt.Sprintf("left %+v and placements make %+v, the host offers %+v", left, sum, offer))
		}
	}
	for id := range c.hosts {
		if _, found := c.left[id]; !found {
			report(string(id), "host without counters")
		}
	}
	return nil
}

func checkPlacements(_ context.Context, _ store.Reader, c *census, report reportFunc) error {
	for h, held := range c.placements {
		for id, p := range held {
			i, v := c.instances[ids.Instance(id)], c.volumes[ids.Volume(id)]
			switch {
			case v != nil && v.Host == h:
			case i == nil || (i.Host != h && i.Former != h):
				report(id, fmt.Sprintf("holds %+v of %s without being there", p.Size, h))
			case p.Releasing != (i.Former == h || !lifecycle.ChargesInstance(i.State)):
				report(id, fmt.Sprintf("placement on %s says releasing %t, instance is %s", h, p.Releasing, i.State))
			}
		}
	}
	for id, i := range c.instances {
		if !i.HostConfirmed && c.placements[i.Host][string(id)] == nil {
			report(string(id), fmt.Sprintf("is %s on %s without a placement", i.State, i.Host))
		}
		if i.Former != "" && c.placements[i.Former][string(id)] == nil {
			report(string(id), "has left "+string(i.Former)+" without a placement there")
		}
	}
	return nil
}

func checkItems(ctx context.Context, r store.Reader, c *census, report reportFunc) error {
	told := map[ids.Instance]bool{}
	for h := range c.hosts {
		items, err := dispatchrows.Items(ctx, r, host.DocHost(h), host.SectionInstances)
		if err != nil {
			return err
		}
		for _, item := range items {
			i := c.instances[ids.Instance(item.Key)]
			switch {
			case i == nil || i.Host != h || !lifecycle.ChargesInstance(i.State):
				report(item.Key, "is in the document of "+string(h)+" without a row that says so")
			case string(host.Encode(i.Item())) != string(item.Payload):
				report(item.Key, "its item differs from its row")
			}
			told[ids.Instance(item.Key)] = true
		}
	}
	for id, i := range c.instances {
		if lifecycle.ChargesInstance(i.State) && !told[id] {
			report(string(id), fmt.Sprintf("is %s on %s, whose document does not have it", i.State, i.Host))
		}
	}
	return nil
}

func checkVolumes(_ context.Context, _ store.Reader, c *census, report reportFunc) error {
	for id, v := range c.volumes {
		i := c.instances[v.Instance]
		switch {
		case v.Instance != "" && (i == nil || i.RootVolume != id || i.HostConfirmed):
			report(string(id), "is the root of "+string(v.Instance)+", which does not have it")
		case v.Instance == "" && c.placements[v.Host][string(id)] == nil:
			report(string(id), "lies on no host")
		}
	}
	for id, i := range c.instances {
		if !i.HostConfirmed && c.volumes[i.RootVolume] == nil {
			report(string(id), "has no root volume")
		}
	}
	return nil
}

func checkOwners(_ context.Context, _ store.Reader, c *census, report reportFunc) error {
	for id := range c.instances {
		c.owned[string(id)] -= 1
	}
	for id := range c.volumes {
		c.owned[string(id)] -= 1
	}
	for id, n := range c.owned {
		if n != 0 {
			report(id, fmt.Sprintf("%+d owner's rows too many", n))
		}
	}
	return nil
}

func checkPending(_ context.Context, _ store.Reader, c *census, report reportFunc) error {
	now := env.Real{}.Now()
	for id, i := range c.instances {
		if age := now.Sub(time.UnixMilli(i.LaunchedMs)); i.State == compute.Pending && age > compute.PendingLimit+stuckAfter {
			report(string(id), fmt.Sprintf("is pending for %v", age.Round(time.Second)))
		}
	}
	return nil
}

func checkOperations(ctx context.Context, r store.Reader, c *census, report reportFunc) error {
	return check.Scan(ctx, r, op.Prefix(), func(kv store.KV) error {
		o, err := op.Decode(kv.Value.Bytes)
		if err != nil || o.State != op.Running || !strings.HasPrefix(o.Target, "i-") {
			return err
		}
		if i := c.instances[ids.Instance(o.Target)]; i == nil || i.Operation != o.ID {
			report(string(o.ID), "runs on "+o.Target+", which does not name it")
		}
		return nil
	})
}

func checkTokens(ctx context.Context, r store.Reader, c *census, report reportFunc) error {
	launched := map[string]bool{}
	for _, i := range c.instances {
		launched[string(i.Reservation)] = true
	}
	return idem.Each(ctx, r, func(s idem.Scope, record idem.Record) error {
		if s.Action == tokenAction && !launched[record.Resource] {
			report(s.Token, "token of "+string(s.Account)+" leads to "+record.Resource+", which has no instances")
		}
		return nil
	})
}
