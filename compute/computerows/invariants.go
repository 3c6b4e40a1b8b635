package computerows

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
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
			Doc:   "An instance is in its host's document exactly as its row says while it is not terminating, and in no other; every host is in the fleet's.",
			Check: withCensus(checkItems),
		},
		{
			Name:  "compute.volumes",
			Doc:   "Every instance that its host still holds has its root volume, and every volume its instance or its host.",
			Check: withCensus(checkVolumes),
		},
		{
			Name:  "compute.interfaces",
			Doc:   "Every instance that a host has has its interface, where the instance is; no interface is of another.",
			Check: withCensus(checkInterfaces),
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
			Doc:   "A running operation on an instance is the one that the instance names; one that is on its way from state to state has one.",
			Check: withCensus(checkOperations),
		},
		{
			Name:  "compute.tokens",
			Doc:   "A launch's client token leads to instances that have rows, and is found by its age.",
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
	misplaced  []string // rows under keys that are not theirs
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
			c.locate(row, kv.Key)
		}
		return err
	})
	return c, err
}

// locate notes a row that is not under its own key.
func (c *census) locate(row Change, key []byte) {
	var own store.Template
	switch row.Table {
	case "instance":
		own = instanceKey(row.Instance.ID)
	case "volume":
		own = volumeKey(row.Volume.ID)
	default:
		return // these rows do not say whose they are but by their keys
	}
	if !bytes.Equal(own.Base, key) {
		c.misplaced = append(c.misplaced, fmt.Sprintf("%q", key))
	}
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
	fleet, err := dispatchrows.Items(ctx, r, host.DocFleet, host.SectionHosts)
	if err != nil {
		return err
	}
	listed := map[ids.Host]bool{}
	for _, item := range fleet {
		if listed[ids.Host(item.Key)] = true; c.hosts[ids.Host(item.Key)] == nil {
			report(item.Key, "is in the fleet's document, but does not exist")
		}
	}
	for h := range c.hosts {
		if !listed[h] {
			report(string(h), "is not in the fleet's document")
		}
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
		case v.Instance == "" && c.placements[v.Host][string(id)].Size != (fit.Size{DiskGiB: int64(v.SizeGiB)}):
			report(string(id), fmt.Sprintf("is of %d GiB, and holds %+v of %s", v.SizeGiB, c.placements[v.Host][string(id)].Size, v.Host))
		case i != nil && (v.Account != i.Account || v.Zone != i.Zone || v.SizeGiB != i.RootDiskGiB || v.Keep != i.KeepRoot):
			report(string(id), fmt.Sprintf("is of %d GiB in %s, kept %t; its instance says %d GiB in %s, kept %t", v.SizeGiB, v.Zone, v.Keep, i.RootDiskGiB, i.Zone, i.KeepRoot))
		}
	}
	for id, i := range c.instances {
		if !i.HostConfirmed && c.volumes[i.RootVolume] == nil {
			report(string(id), "has no root volume")
		}
	}
	return nil
}

func checkOwners(ctx context.Context, r store.Reader, c *census, report reportFunc) error {
	for _, key := range c.misplaced {
		report(key, "holds the row of another")
	}
	// the owner's row must be there, and there must be no other
	own := func(a ids.Account, id string) error {
		_, found, err := r.Get(ctx, ownedKey(a, id).Base)
		if !found && err == nil {
			report(id, "has no owner's row of account "+string(a))
		}
		c.owned[id]--
		return err
	}
	for id, i := range c.instances {
		if err := own(i.Account, string(id)); err != nil {
			return err
		}
	}
	for id, v := range c.volumes {
		if err := own(v.Account, string(id)); err != nil {
			return err
		}
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
	running := map[ids.Operation]bool{}
	err := check.Scan(ctx, r, op.Prefix(), func(kv store.KV) error {
		o, err := op.Decode(kv.Value.Bytes)
		running[o.ID] = err == nil && o.State == op.Running
		if err != nil || o.State != op.Running || !strings.HasPrefix(o.Target, "i-") {
			return err
		}
		switch i := c.instances[ids.Instance(o.Target)]; {
		case i == nil || i.Operation != o.ID:
			report(string(o.ID), "runs on "+o.Target+", which does not name it")
		case !i.onItsWay() && string(o.ID) != i.RebootID:
			report(string(o.ID), "runs on "+o.Target+", which is "+i.State.String()+" and stays so")
		}
		return nil
	})
	for id, i := range c.instances {
		if i.onItsWay() && !running[i.Operation] {
			report(string(id), fmt.Sprintf("is %s, and its operation %s does not run", i.State, i.Operation))
		}
	}
	return err
}

func (i *Instance) onItsWay() bool {
	return i.State == compute.Pending || i.State == compute.Stopping || i.State == compute.ShuttingDown
}

// checkInterfaces compares instances with the interfaces that they have: one each, for as long as a host has it.
func checkInterfaces(ctx context.Context, r store.Reader, c *census, report reportFunc) error {
	for id, i := range c.instances {
		if i.State == compute.Terminated {
			continue
		}
		n, err := vpcrows.GetInterface(ctx, r, i.Account, i.Interface)
		if missing := (*vpc.NotFoundError)(nil); errors.As(err, &missing) {
			if lifecycle.ChargesInstance(i.State) {
				report(string(id), "has no interface "+string(i.Interface))
			}
			continue
		}
		if err != nil {
			return err
		}
		if n.Instance != id || n.VPC != i.VPC || n.Subnet != i.Subnet || n.Attachment != i.Attachment {
			report(string(id), fmt.Sprintf("is in %s and %s by %s; its interface %s is of %s in %s and %s by %s", i.VPC, i.Subnet, i.Attachment, i.Interface, n.Instance, n.VPC, n.Subnet, n.Attachment))
		}
		if lifecycle.ChargesInstance(i.State) && (n.State != vpc.InterfaceInUse || n.Host != i.Host) {
			report(string(id), fmt.Sprintf("is %s on %s; its interface is %s on %s", i.State, i.Host, n.State, n.Host))
		}
	}
	return vpcrows.EachInterface(ctx, r, func(n vpcrows.Interface) {
		if i := c.instances[n.Instance]; i == nil || i.Interface != n.ID || i.State == compute.Terminated {
			report(string(n.ID), "is the interface of "+string(n.Instance)+", which does not have it")
		}
	})
}

func checkTokens(ctx context.Context, r store.Reader, c *census, report reportFunc) error {
	err := idem.Unpaired(ctx, r, func(s idem.Scope, missing string) {
		report(s.Token, "token of "+string(s.Account)+" lacks "+missing)
	})
	if err != nil {
		return err
	}
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
