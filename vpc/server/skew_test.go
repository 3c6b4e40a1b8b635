package server

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// skewed is a VPC with an interface on each of two hosts, which apply the sections of their documents at different times.
type skewed struct {
	*cloud
	t       *testing.T
	vpc     vpc.VPC
	marks   *marks
	hosts   []*applier
	members []*member
	meant   map[uint64][]ids.SecurityGroup // by revision of a mapping: the groups that its identity stood for
	numbers map[uint16]int                 // how often each was given
	steps   int
}

type member struct {
	id    ids.Interface
	group ids.SecurityGroup // its only one
	on    *applier
}

// applier is what a host has applied.
type applier struct {
	id         ids.Host
	identities map[uint16][]ids.SecurityGroup
	mappings   map[uint64]uint16 // identity by revision
	ports      []host.Interface
	has        map[string]uint64 // by section
	needs      map[string]uint64 // of the VPC's sections, before the host's own may be applied
}

var vpcSections = []string{host.SectionIdentities, host.SectionMappings}

func newSkewed(t *testing.T) *skewed {
	c, m := newSmallCloud(t)
	m.last = 0 // hosts say only what they have applied
	a := c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	subnet := c.subnet(t, v, "10.0.1.0/24")
	s := &skewed{cloud: c, t: t, vpc: v, marks: m, meant: map[uint64][]ids.SecurityGroup{}, numbers: map[uint16]int{}}
	for _, h := range []ids.Host{testHost, "h-0123456789abcdef1"} {
		on := &applier{id: h, has: map[string]uint64{}, needs: map[string]uint64{}}
		s.hosts = append(s.hosts, on)
		g := c.group(t, v, "first of "+string(h))
		p := must(c.Prepare(t.Context(), vpc.PrepareRequest{Account: a, Subnet: subnet.ID, Groups: []ids.SecurityGroup{g.ID}}))(t)
		id, _, _, err := c.attach(t.Context(), p, netip.Addr{}, h)
		if err != nil {
			t.Fatal(err)
		}
		k := &member{id, g.ID, on}
		s.members = append(s.members, k)
		s.told(k)
	}
	s.applyAllBut(nil, "")
	return s
}

// told notes what a change of a member's interface means, and what its host needs before it may apply it.
func (s *skewed) told(k *member) {
	s.t.Helper()
	for _, item := range s.items(host.DocVPC(s.vpc.ID), host.SectionMappings) {
		if item.Key == string(k.id) {
			s.meant[item.Rev] = []ids.SecurityGroup{k.group}
		}
	}
	for _, section := range vpcSections {
		k.on.needs[section] = s.seq(s.t, s.vpc.ID, section)
	}
}

func (s *skewed) items(doc, section string) (out []dispatchrows.Item) {
	s.t.Helper()
	err := s.db.View(s.t.Context(), func(r store.Reader) (err error) {
		out, err = dispatchrows.Items(s.t.Context(), r, doc, section)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// regroup moves a member to a new group of its own and deletes the one it had; false when the VPC has no identity for it.
func (s *skewed) regroup(k *member) bool {
	s.t.Helper()
	ctx, a := s.t.Context(), s.vpc.Account
	s.steps++
	g := s.group(s.t, s.vpc, name(s.steps))
	identity, err := s.PrepareIdentity(ctx, a, s.vpc.ID, []ids.SecurityGroup{g.ID})
	if errors.As(err, new(*vpc.LimitError)) {
		if err := s.DeleteGroup(ctx, a, g.ID); err != nil {
			s.t.Fatal(err)
		}
		return false
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.numbers[identity.Number]++
	_, err = s.db.Transact(ctx, func(tx *store.Tx) error {
		return vpcrows.ModifyInterface(ctx, tx, a, k.id, vpcrows.InterfaceChange{Groups: &identity})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	old := k.group
	k.group = g.ID
	s.told(k)
	if err := s.DeleteGroup(ctx, a, old); err != nil {
		s.t.Fatal(err)
	}
	return true
}

// applyAllBut makes the hosts apply what there is, but for one section of one host.
func (s *skewed) applyAllBut(late *applier, lateSection string) {
	s.t.Helper()
	for _, h := range s.hosts {
		for _, section := range vpcSections {
			if h != late || section != lateSection {
				s.applyShared(h, section)
				s.judge(h)
			}
		}
		waits := slices.ContainsFunc(vpcSections, func(section string) bool { return h.has[section] < h.needs[section] })
		if !waits && (h != late || lateSection != host.SectionInterfaces) {
			s.applyOwn(h)
			s.judge(h)
		}
	}
}

func (s *skewed) applyShared(h *applier, section string) {
	items := s.items(host.DocVPC(s.vpc.ID), section)
	h.has[section] = s.seq(s.t, s.vpc.ID, section)
	if section == host.SectionIdentities {
		h.identities = map[uint16][]ids.SecurityGroup{}
	} else {
		h.mappings = map[uint64]uint16{}
	}
	for _, item := range items {
		if section == host.SectionIdentities {
			i := must(host.Decode[host.Identity](item.Payload))(s.t)
			h.identities[i.Number] = i.Groups
		} else {
			h.mappings[item.Rev] = must(host.Decode[host.Mapping](item.Payload))(s.t).Identity
		}
	}
	s.marks.set(host.DocHost(h.id), section, h.has[section])
}

func (s *skewed) applyOwn(h *applier) {
	h.ports = nil
	last := uint64(0)
	for _, item := range s.items(host.DocHost(h.id), host.SectionInterfaces) {
		h.ports = append(h.ports, must(host.Decode[host.Interface](item.Payload))(s.t))
		last = max(last, item.Rev)
	}
	s.marks.set(host.DocHost(h.id), host.SectionInterfaces, last)
}

// judge holds that an identity means to a host what it meant when it was put on a port or a mapping, or nothing.
func (s *skewed) judge(h *applier) {
	s.t.Helper()
	for _, p := range h.ports {
		if now, known := h.identities[p.Identity]; known && !slices.Equal(now, p.Groups) {
			s.t.Fatalf("step %d: on %s the port of %s has identity %d for %v, which stands for %v", s.steps, h.id, p.ID, p.Identity, p.Groups, now)
		}
	}
	for rev, number := range h.mappings {
		if now, known := h.identities[number]; known && !slices.Equal(now, s.meant[rev]) {
			s.t.Fatalf("step %d: on %s a mapping has identity %d for %v, which stands for %v", s.steps, h.id, number, s.meant[rev], now)
		}
	}
}

// TestReusedIdentityMatchesNoOldMember changes the groups of interfaces over and over while one section of one host stays
// behind. The number that it still knows for the old groups is given to no others meanwhile; once it has caught up, it is.
func TestReusedIdentityMatchesNoOldMember(t *testing.T) {
	s := newSkewed(t)
	for i, late := range s.hosts {
		other := s.members[1-i : 2-i]
		for _, c := range []struct {
			section string
			changed []*member
		}{
			{host.SectionInterfaces, s.members}, {host.SectionIdentities, s.members}, {host.SectionMappings, s.members},
			{host.SectionIdentities, other}, {host.SectionMappings, other}, // the late host's own section has nothing new
		} {
			refused := false
			for n := 0; n < 2*smallVPC && !refused; n++ {
				refused = !s.regroup(c.changed[n%len(c.changed)])
				s.applyAllBut(late, c.section)
			}
			if !refused {
				t.Errorf("with %s of %s behind, numbers never ran out", c.section, late.id)
			}
			s.applyAllBut(nil, "")
			for n := range retiredAhead {
				if !s.regroup(s.members[n%2]) {
					t.Fatalf("%s has caught up with its %s, and there is still no number", late.id, c.section)
				}
				s.applyAllBut(nil, "")
			}
		}
	}
	again := 0
	for _, n := range s.numbers {
		again += n - 1
	}
	t.Logf("%d changes of groups, %d times a number was given again", s.steps, again)
	if again < smallVPC {
		t.Errorf("only %d times a number was given again", again)
	}
}
