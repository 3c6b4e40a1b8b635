package server

import (
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// smallVPC is the bound on identities in these tests: above 2 * retiredAhead, so that it begins as a large one does.
const smallVPC = 3 * retiredAhead

// marks stands for what hosts say they have applied.
type marks struct {
	mu   sync.Mutex
	of   map[string]uint64 // target and section
	last uint64            // for who is not in of
}

func (m *marks) applied(target, _, section string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seq, set := m.of[target+section]; set {
		return seq
	}
	return m.last
}

func (m *marks) set(target, section string, seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[target+section] = seq
}

func newSmallCloud(t *testing.T) (*cloud, *marks) {
	c := newCloud(t)
	m := &marks{of: map[string]uint64{}, last: 1 << 40}
	c.maxIdentities = smallVPC
	c.FollowApplied(m.applied)
	return c, m
}

func (c *cloud) seq(t *testing.T, v ids.VPC, section string) (seq uint64) {
	t.Helper()
	err := c.db.View(t.Context(), func(r store.Reader) (err error) {
		seq, err = dispatchrows.Seq(t.Context(), r, dispatch.SectionID{Doc: host.DocVPC(v), Section: section})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// cycle makes a group, gives it an identity, and deletes it again.
func (c *cloud) cycle(t *testing.T, v vpc.VPC, name string) uint16 {
	t.Helper()
	g := c.group(t, v, name)
	identity := must(c.PrepareIdentity(t.Context(), v.Account, v.ID, []ids.SecurityGroup{g.ID}))(t)
	if err := c.DeleteGroup(t.Context(), v.Account, g.ID); err != nil {
		t.Fatal(err)
	}
	return identity.Number
}

// TestIdentitiesAreUsedAgain cycles groups many times over the bound, beside an instance that keeps its identity.
func TestIdentitiesAreUsedAgain(t *testing.T) {
	c, _ := newSmallCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	subnet := c.subnet(t, v, "10.0.1.0/24")
	_, _, _, err := c.launch(ctx, vpc.PrepareRequest{Account: a, Subnet: subnet.ID}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	kept := must(c.PrepareIdentity(ctx, a, v.ID, []ids.SecurityGroup{v.DefaultGroup}))(t)
	uses := map[uint16]int{}
	rest := map[uint16]int{}
	for i := range 5 * smallVPC {
		number := c.cycle(t, v, name(i))
		if number == kept.Number || int(number) > smallVPC {
			t.Fatalf("cycle %d got number %d", i, number)
		}
		if last, again := rest[number]; again && i-last < retiredAhead/2 {
			t.Errorf("number %d is used again after %d cycles", number, i-last)
		}
		uses[number]++
		rest[number] = i
	}
	if len(uses) != smallVPC-1 {
		t.Errorf("%d numbers were used, want all %d but one", len(uses), smallVPC)
	}
	if again := must(c.PrepareIdentity(ctx, a, v.ID, []ids.SecurityGroup{v.DefaultGroup}))(t); again.Number != kept.Number {
		t.Errorf("the instance's identity went from %d to %d", kept.Number, again.Number)
	}
	c.check(t)
}

// TestLateHostBlocksReuse: a number that a host may still know is nobody's, in either section, and the full VPC says so.
func TestLateHostBlocksReuse(t *testing.T) {
	c, m := newSmallCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	subnet := c.subnet(t, v, "10.0.1.0/24")
	_, _, _, err := c.launch(ctx, vpc.PrepareRequest{Account: a, Subnet: subnet.ID}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	late := host.DocHost(testHost)
	for _, section := range []string{host.SectionIdentities, host.SectionMappings} {
		m.set(late, section, c.seq(t, v.ID, section)-1)
	}
	for i := 1; i < smallVPC; i++ { // one number is the instance's
		c.cycle(t, v, name(i))
	}
	g := c.group(t, v, "one too many")
	want := []ids.SecurityGroup{g.ID}
	refused := func() {
		t.Helper()
		_, err := c.PrepareIdentity(ctx, a, v.ID, want)
		if limit := as[*vpc.LimitError](t, err); limit.Limit != vpc.LimitIdentitiesPerVPC || limit.Max != smallVPC {
			t.Errorf("%+v", limit)
		}
	}
	refused()
	var first vpcrows.Retired
	err = c.db.View(ctx, func(r store.Reader) error {
		waiting, err := vpcrows.RetiredIdentities(ctx, r, v.ID, 1)
		if err == nil {
			first = waiting[0]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m.set(late, host.SectionIdentities, first.IdentitiesSeq-1)
	m.set(late, host.SectionMappings, first.MappingsSeq)
	refused()
	m.set(late, host.SectionIdentities, first.IdentitiesSeq)
	m.set(late, host.SectionMappings, first.MappingsSeq-1)
	refused()
	m.set(late, host.SectionMappings, first.MappingsSeq)
	if got := must(c.PrepareIdentity(ctx, a, v.ID, want))(t); got.Number != first.Number {
		t.Errorf("number %d, want %d, retired first", got.Number, first.Number)
	}
	want = []ids.SecurityGroup{c.group(t, v, "the next").ID}
	refused() // it was retired after what the host has applied
	// A host that left the VPC follows it no more; while its interface is releasing it still does.
	interfaces := must(c.DescribeInterfaces(ctx, a, nil, nil))(t)
	if err := c.detach(ctx, a, interfaces[0].ID); err != nil {
		t.Fatal(err)
	}
	refused()
	must(c.ReleaseApplied(ctx, testHost, 1<<40, nil))(t)
	must(c.PrepareIdentity(ctx, a, v.ID, want))(t)
}

// TestUnusedIdentitiesMakeRoom asks for sets of groups that stay, far more than fit, and launches nothing with them: as a
// tenant with a few groups can.
func TestUnusedIdentitiesMakeRoom(t *testing.T) {
	c, _ := newSmallCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	var groups []ids.SecurityGroup
	for i := range 12 {
		groups = append(groups, c.group(t, v, name(i)).ID)
	}
	n := 0
	for i := range groups {
		for j := range i {
			for k := range j {
				for l := range k {
					must(c.PrepareIdentity(ctx, a, v.ID, []ids.SecurityGroup{groups[i], groups[j], groups[k], groups[l]}))(t)
					n++
				}
			}
		}
	}
	if n < 2*smallVPC {
		t.Fatalf("only %d sets", n)
	}
}

// TestPreparedIdentityIsOfItsSet: what was prepared before its number went to another set attaches nothing.
func TestPreparedIdentityIsOfItsSet(t *testing.T) {
	c, _ := newSmallCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	subnet := c.subnet(t, v, "10.0.1.0/24")
	g := c.group(t, v, "first")
	p := must(c.Prepare(ctx, vpc.PrepareRequest{Account: a, Subnet: subnet.ID, Groups: []ids.SecurityGroup{g.ID}}))(t)
	if err := c.DeleteGroup(ctx, a, g.ID); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		h := c.group(t, v, "h"+strconv.Itoa(i))
		if now := must(c.PrepareIdentity(ctx, a, v.ID, []ids.SecurityGroup{h.ID}))(t); now.Number == p.Identity.Number {
			break
		}
		if err := c.DeleteGroup(ctx, a, h.ID); err != nil {
			t.Fatal(err)
		}
		if i > 2*smallVPC {
			t.Fatal("the number is never used again")
		}
	}
	if _, _, _, err := c.attach(ctx, p, netip.Addr{}, testHost); !errors.Is(err, vpc.ErrStale) {
		t.Errorf("attach with a number of another set: %v, want %v", err, vpc.ErrStale)
	}
}
