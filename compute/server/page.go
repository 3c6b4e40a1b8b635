package server

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/internal/ordered"
	"github.com/nimbrel/nimbrel/vpc"
)

// instancePrefix begins the ids of instances.
const instancePrefix = "i-"

// lookAtOnce bounds the instances that are looked at under the view's lock, so that a read of many holds up no write.
const lookAtOnce = 1024

// index finds an account's instances by what they are, in the order of their places. The view's lock guards it.
type index struct {
	placed map[ids.Instance]*placed
	lists  map[term]*ordered.Map[*placed] // none is empty
	tags   map[ids.Instance]map[string]string
	// What leads to few instances: their interfaces by address, in whatever VPC.
	byAddress   map[term]map[ids.Interface]bool
	byInterface map[ids.Interface]ids.Instance
}

// term is one value of one property among an account's instances. The one without property is all of the account.
type term struct {
	account  ids.Account
	property compute.Property
	value    string
}

// placed is an instance's row with its place and the lists that it is in.
type placed struct {
	row   *computerows.Instance
	at    string
	terms []term
	shown atomic.Pointer[shown] // what clients were shown of it last; nil since anything of it has changed
}

// shown is an instance as clients see it, as of an epoch of the view.
type shown struct {
	compute.Instance
	epoch uint64
}

func (x *index) reset() {
	x.placed = map[ids.Instance]*placed{}
	x.lists = map[term]*ordered.Map[*placed]{}
	x.tags = map[ids.Instance]map[string]string{}
	x.byAddress = map[term]map[ids.Interface]bool{}
	x.byInterface = map[ids.Interface]ids.Instance{}
}

// set takes an instance's row; nil when it is gone.
func (x *index) set(id ids.Instance, row *computerows.Instance) {
	p := x.placed[id]
	switch {
	case row == nil && p == nil:
		return
	case row == nil:
		x.relist(p, nil)
		delete(x.placed, id)
		delete(x.byInterface, p.row.Interface)
		return
	case p == nil:
		p = &placed{at: compute.PlaceOf(time.UnixMilli(row.CreatedMs), row.Reservation, row.LaunchIndex)}
		x.placed[id] = p
	}
	p.row = row
	p.shown.Store(nil)
	x.byInterface[row.Interface] = id
	x.relist(p, x.termsOf(row))
}

// setTags takes an instance's tags, which may come before its row or stay after it.
func (x *index) setTags(id ids.Instance, tags map[string]string) {
	if delete(x.tags, id); len(tags) > 0 {
		x.tags[id] = tags
	}
	if p := x.placed[id]; p != nil {
		p.shown.Store(nil)
		x.relist(p, x.termsOf(p.row))
	}
}

func (x *index) termsOf(row *computerows.Instance) []term {
	tags := x.tags[row.ID]
	terms := make([]term, 0, 5+len(tags))
	terms = append(terms, term{account: row.Account},
		term{row.Account, compute.ByState, row.State.String()}, term{row.Account, compute.ByVPC, string(row.VPC)},
		term{row.Account, compute.BySubnet, string(row.Subnet)}, term{row.Account, compute.ByImage, string(row.Image)})
	for key, value := range tags {
		terms = append(terms, term{row.Account, compute.ByTag(key), value})
	}
	return terms
}

// relist moves an instance from the lists that it is in to those of terms.
func (x *index) relist(p *placed, terms []term) {
	for _, t := range p.terms {
		if list := x.lists[t]; !slices.Contains(terms, t) {
			if list.Delete(p.at); list.Len() == 0 {
				delete(x.lists, t)
			}
		}
	}
	for _, t := range terms {
		if slices.Contains(p.terms, t) {
			continue
		}
		if x.lists[t] == nil {
			x.lists[t] = &ordered.Map[*placed]{}
		}
		x.lists[t].Put(p.at, p)
	}
	p.terms = terms
}

func addressTerm(n *vpc.Interface) term {
	return term{n.Account, compute.ByAddress, n.Address.String()}
}

// putInterface takes an instance's interface, which may come before the instance or stay after it.
func (x *index) putInterface(n *vpc.Interface) {
	put(x.byAddress, addressTerm(n), n.ID, true)
	x.changed(n.ID)
}

func (x *index) dropInterface(n *vpc.Interface) {
	drop(x.byAddress, addressTerm(n), n.ID)
	x.changed(n.ID)
}

// changed forgets what was shown of an interface's instance.
func (x *index) changed(n ids.Interface) {
	if p := x.placed[x.byInterface[n]]; p != nil {
		p.shown.Store(nil)
	}
}

// few lists the instances that a condition leads to one by one; false when it leads to lists.
func (x *index) few(a ids.Account, c compute.Condition) (found []*placed, ok bool) {
	add := func(id ids.Instance) {
		if p := x.placed[id]; p != nil && p.row.Account == a {
			found = append(found, p)
		}
	}
	for _, value := range c.Values {
		switch c.Property {
		case compute.ByID:
			add(ids.Instance(value))
		case compute.ByAddress:
			if address, err := netip.ParseAddr(value); err == nil {
				value = address.String()
			}
			for n := range x.byAddress[term{a, c.Property, value}] {
				add(x.byInterface[n])
			}
		}
	}
	slices.SortFunc(found, func(p, q *placed) int { return cmp.Compare(p.at, q.at) })
	return slices.Compact(found), c.Property == compute.ByID || c.Property == compute.ByAddress
}

// look returns the next instances for which the most selective condition holds, behind a place: at most lookAtOnce.
func (x *index) look(a ids.Account, where []compute.Condition, after string) []*placed {
	best := []*ordered.Map[*placed]{x.lists[term{account: a}]}
	size := best[0].Len()
	for _, c := range where {
		if found, ok := x.few(a, c); ok {
			start, at := slices.BinarySearchFunc(found, after, func(p *placed, after string) int { return cmp.Compare(p.at, after) })
			if at {
				start++
			}
			return found[start:][:min(lookAtOnce, len(found)-start)]
		}
		lists, sum := x.listsOf(a, c)
		if sum < size {
			best, size = lists, sum
		}
	}
	return ordered.Merge(best, after, lookAtOnce)
}

func (x *index) listsOf(a ids.Account, c compute.Condition) (lists []*ordered.Map[*placed], sum int) {
	for _, value := range c.Values {
		list := x.lists[term{a, c.Property, value}]
		lists, sum = append(lists, list), sum+list.Len()
	}
	return lists, sum
}

// holds says whether a condition that leads to lists holds for an instance.
func (p *placed) holds(c compute.Condition) bool {
	if c.Property == compute.ByAddress {
		return true
	}
	if c.Property == compute.ByID {
		return slices.Contains(c.Values, string(p.row.ID))
	}
	return slices.ContainsFunc(c.Values, func(value string) bool {
		return slices.Contains(p.terms, term{p.row.Account, c.Property, value})
	})
}

// page is what has been found of a page.
type page struct {
	list []*compute.Instance
	at   string // the last one's place
	more bool   // there are others behind it
}

// page collects instances for which all conditions hold, and where to go on: empty at the end.
func (v *view) page(a ids.Account, p compute.Page, visible func(*computerows.Instance) bool) (found []*compute.Instance, next string) {
	var out page
	for after, ended := p.After, false; !ended; {
		after, ended = v.look(a, p, after, visible, &out)
		if out.more {
			return out.list, out.at
		}
	}
	return out.list, ""
}

// look adds what index.look finds and all conditions hold for, under the lock. last is how far it looked.
func (v *view) look(a ids.Account, p compute.Page, after string, visible func(*computerows.Instance) bool, out *page) (last string, ended bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	list := v.index.look(a, p.Where, after)
	if out.list == nil {
		out.list = make([]*compute.Instance, 0, min(len(list), p.Limit))
	}
	for _, i := range list {
		fails := func(c compute.Condition) bool { return !i.holds(c) }
		if !visible(i.row) || slices.ContainsFunc(p.Where, fails) {
			continue
		}
		if len(out.list) == p.Limit {
			out.more = true
			return "", true
		}
		out.list, out.at = append(out.list, v.shown(i)), i.at
	}
	if len(list) < lookAtOnce {
		return "", true
	}
	return list[len(list)-1].at, false
}

// shown is an instance as clients see it; mu is held for reading.
func (v *view) shown(p *placed) *compute.Instance {
	if s := p.shown.Load(); s != nil && s.epoch == v.epoch {
		return &s.Instance
	}
	s := &shown{*v.make(p.row), v.epoch}
	p.shown.Store(s)
	return &s.Instance
}

func rowsOf(list []*placed) []*computerows.Instance {
	rows := make([]*computerows.Instance, len(list))
	for i, p := range list {
		rows[i] = p.row
	}
	return rows
}

// PageInstances implements compute.Viewer.
func (s *Service) PageInstances(ctx context.Context, a ids.Account, p compute.Page) (found []*compute.Instance, next string, err error) {
	if err := s.current(ctx); err != nil {
		return nil, "", err
	}
	now := s.options.Env.Clock.Now()
	found, next = s.view.page(a, p, func(i *computerows.Instance) bool { return i.Visible(now) })
	return found, next, nil
}
