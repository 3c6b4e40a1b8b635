package server

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/place"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/internal/ordered"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// view is the part's rows in memory, as of one version. Rows are replaced, never changed: a pointer read under mu may be
// used after.
type view struct {
	mu         sync.RWMutex
	instances  map[ids.Instance]*computerows.Instance
	index      index // of instances
	ofLaunch   map[ids.Reservation]map[ids.Instance]*computerows.Instance
	volumes    map[ids.Volume]*computerows.Volume
	hosts      map[ids.Host]*hostView
	unsettled  map[ids.Instance]bool // instances whose state time changes: pending and terminated ones
	placements map[ids.Host]map[string]computerows.Placement
	interfaces map[ids.Interface]*vpc.Interface // vpc's rows
	region     string                           // of the names of addresses; never changes
	epoch      uint64                           // rises when something changes that is shown of instances and is not theirs
}

// hostView is one host's row and counters. row is nil while only counters were seen.
type hostView struct {
	row  *computerows.Host
	left fit.Size
}

func newView(region string) *view {
	v := &view{region: region}
	v.reset()
	return v
}

func (v *view) reset() {
	v.instances = map[ids.Instance]*computerows.Instance{}
	v.index.reset()
	v.ofLaunch = map[ids.Reservation]map[ids.Instance]*computerows.Instance{}
	v.volumes = map[ids.Volume]*computerows.Volume{}
	v.hosts = map[ids.Host]*hostView{}
	v.unsettled = map[ids.Instance]bool{}
	v.placements = map[ids.Host]map[string]computerows.Placement{}
	v.interfaces = map[ids.Interface]*vpc.Interface{}
}

// update takes changes that were read, instead of all that there was when they are a snapshot.
func (v *view) update(snapshot bool, sets []func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if snapshot {
		v.reset()
	}
	for _, set := range sets {
		set()
	}
}

// apply takes one change; mu is held for writing.
func (v *view) apply(c computerows.Change) {
	switch c.Table {
	case "instance":
		v.setInstance(ids.Instance(c.ID), c.Instance)
	case "volume":
		if c.Deleted {
			delete(v.volumes, ids.Volume(c.ID))
		} else {
			v.volumes[ids.Volume(c.ID)] = c.Volume
		}
	case "host":
		was := v.simulated(c.Host)
		v.host(c.Host).row = c.HostRow
		if v.simulated(c.Host) != was {
			v.epoch++
		}
	case "left":
		h := v.host(c.Host)
		h.left = h.left.With(c.Resource, c.Left)
	case "place":
		if c.Deleted {
			drop(v.placements, c.Host, c.ID)
		} else {
			put(v.placements, c.Host, c.ID, *c.Placement)
		}
	}
}

// readInterface reads a change of an interface's row. set takes it; mu is held for writing then.
func (v *view) readInterface(c store.Change) (set func(), err error) {
	_, parts, err := vpcrows.ParseKey(c.Key)
	if err != nil || len(parts) != 2 {
		return nil, fmt.Errorf("parse interface key with %d elements: %w", len(parts), err)
	}
	text, _ := parts[1].(string)
	if c.Deleted {
		return func() { v.setInterface(ids.Interface(text), nil) }, nil
	}
	n, err := vpcrows.DecodeInterface(c.Value)
	if err != nil {
		return nil, err
	}
	n.PrivateDNSName = host.PrivateDNSName(n.Address, v.region)
	return func() { v.setInterface(ids.Interface(text), &n.Interface) }, nil
}

func (v *view) setInterface(id ids.Interface, n *vpc.Interface) {
	if old := v.interfaces[id]; old != nil {
		delete(v.interfaces, id)
		v.index.dropInterface(old)
	}
	if n != nil {
		v.interfaces[id] = n
		v.index.putInterface(n)
	}
}

// readTags reads a change of a resource's tags. set takes it, unless it is nil; mu is held for writing then.
func (v *view) readTags(c store.Change) (set func(), err error) {
	_, resource, err := tagrows.ParseKey(c.Key)
	if err != nil || !strings.HasPrefix(resource, instancePrefix) {
		return nil, err
	}
	var tags map[string]string
	if !c.Deleted {
		tags, err = tagrows.Decode(c.Value)
	}
	return func() { v.index.setTags(ids.Instance(resource), tags) }, err
}

func (v *view) setInstance(id ids.Instance, row *computerows.Instance) {
	if old := v.instances[id]; old != nil {
		drop(v.ofLaunch, old.Reservation, id)
		delete(v.unsettled, id)
		delete(v.instances, id)
	}
	v.index.set(id, row)
	if row == nil {
		return
	}
	v.instances[id] = row
	put(v.ofLaunch, row.Reservation, id, row)
	if row.Unsettled() {
		v.unsettled[id] = true
	}
}

func (v *view) host(id ids.Host) *hostView {
	h := v.hosts[id]
	if h == nil {
		h = &hostView{}
		v.hosts[id] = h
	}
	return h
}

func put[A, B comparable, T any](m map[A]map[B]T, a A, b B, t T) {
	inner := m[a]
	if inner == nil {
		inner = map[B]T{}
		m[a] = inner
	}
	inner[b] = t
}

func drop[A, B comparable, T any](m map[A]map[B]T, a A, b B) {
	delete(m[a], b)
	if len(m[a]) == 0 {
		delete(m, a)
	}
}

// show is a row as clients see it.
func (v *view) show(i *computerows.Instance) *compute.Instance {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if p := v.index.placed[i.ID]; p != nil && p.row == i {
		return v.shown(p)
	}
	return v.make(i)
}

// make joins a row with what is shown with it; mu is held.
func (v *view) make(i *computerows.Instance) *compute.Instance {
	shown := i.View(v.interfaces[i.Interface])
	shown.Simulated = v.simulated(i.Host)
	shown.Tags = v.index.tags[i.ID]
	return shown
}

// simulated says whether no guest really runs on the host; mu is held.
func (v *view) simulated(h ids.Host) bool {
	seen := v.hosts[h]
	return seen != nil && seen.row != nil && seen.row.Info.Simulated
}

// instance returns one row, or nil.
func (v *view) instance(id ids.Instance) *computerows.Instance {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.instances[id]
}

// launch returns a reservation's rows by launch index.
func (v *view) launch(r ids.Reservation) []*computerows.Instance {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return sorted(v.ofLaunch[r])
}

// of returns an account's rows in order.
func (v *view) of(a ids.Account) []*computerows.Instance {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return rowsOf(ordered.Merge([]*ordered.Map[*placed]{v.index.lists[term{account: a}]}, "", math.MaxInt))
}

// all returns every row in order.
func (v *view) all() []*computerows.Instance {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return sorted(v.instances)
}

// sorted orders rows by creation, reservation and launch index.
func sorted(m map[ids.Instance]*computerows.Instance) []*computerows.Instance {
	out := make([]*computerows.Instance, 0, len(m))
	for _, i := range m {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b *computerows.Instance) int {
		return cmp.Or(cmp.Compare(a.CreatedMs, b.CreatedMs), cmp.Compare(a.Reservation, b.Reservation), cmp.Compare(a.LaunchIndex, b.LaunchIndex))
	})
	return out
}

// looksDue is the work of looking at the instances that time may change.
func (v *view) looksDue() []work {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]work, 0, len(v.unsettled))
	for id := range v.unsettled {
		out = append(out, work{instance: id})
	}
	return out
}

// releasing lists a host's instances whose placements wait for its confirmation, as far as a covers them.
func (v *view) releasing(h ids.Host, a computerows.Applied) []ids.Instance {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []ids.Instance
	for id, p := range v.placements[h] {
		if a.Covers(p) {
			out = append(out, ids.Instance(id))
		}
	}
	return out
}

// zones lists the zones that have a host which usable allows.
func (v *view) zones(usable func(ids.Host) bool) []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []string
	for id, h := range v.hosts {
		if h.row != nil && !h.row.Draining && usable(id) {
			out = append(out, h.row.Info.Zone)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// candidates lists the hosts of a zone that usable allows, as the chooser sees them.
func (v *view) candidates(zone string, usable func(ids.Host) bool) []place.Host {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []place.Host
	for id, h := range v.hosts {
		if h.row != nil && h.row.Info.Zone == zone && !h.row.Draining && usable(id) {
			out = append(out, place.Host{ID: id, Total: h.row.Capacity(), Left: h.left})
		}
	}
	slices.SortFunc(out, func(a, b place.Host) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
