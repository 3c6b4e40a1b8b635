package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// available returns a subnet's count of free addresses.
func (c *cloud) available(t *testing.T, s vpc.Subnet) int {
	t.Helper()
	return must(c.DescribeSubnets(t.Context(), s.Account, []ids.Subnet{s.ID}, nil))(t)[0].AvailableAddresses
}

// items reads a section of a document as its host does.
func items[T host.Payload](t *testing.T, c *cloud, doc, section string) map[string]T {
	t.Helper()
	out := map[string]T{}
	err := c.db.View(t.Context(), func(r store.Reader) error {
		all, err := dispatchrows.Items(t.Context(), r, doc, section)
		for _, it := range all {
			v, err := host.Decode[T](it.Payload)
			if err != nil {
				return err
			}
			out[it.Key] = v
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestInterfaceLife(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	s, g := c.subnet(t, v, "10.0.7.0/24"), c.group(t, v, "g")
	p := must(c.Prepare(ctx, vpc.PrepareRequest{Account: a, Subnet: s.ID, Groups: []ids.SecurityGroup{g.ID}, GroupNames: []string{"default", "g"}}))(t)
	if p.VPC.VNI != v.VNI || p.Subnet.ID != s.ID || len(p.Identity.Groups) != 2 || p.Identity.Number == 0 || len(p.Names) != 2 {
		t.Fatalf("%+v", p)
	}
	id, address, _, err := c.attach(ctx, p, netip.Addr{}, testHost)
	if err != nil {
		t.Fatal(err)
	}
	got := must(c.DescribeInterfaces(ctx, a, []ids.Interface{id}, nil))(t)[0]
	if got.Address != address || got.Address.String() != "10.0.7.4" || got.PrivateDNSName != "ip-10-0-7-4.us-test-1.compute.internal" ||
		got.State != vpc.InterfaceInUse || got.Host != testHost || got.Identity != p.Identity.Number || got.MAC != vpcrows.MAC(id) || got.MAC[0] != 2 {
		t.Errorf("%+v", got)
	}
	if n := c.available(t, s); n != 250 {
		t.Errorf("%d addresses are available", n)
	}
	c.checkTold(t, got, v)

	if err := c.detach(ctx, a, id); err != nil {
		t.Fatal(err)
	}
	if err := c.detach(ctx, a, id); err != nil { // again
		t.Fatal(err)
	}
	if got = must(c.DescribeInterfaces(ctx, a, []ids.Interface{id}, nil))(t)[0]; got.State != vpc.InterfaceReleasing || got.Address != address {
		t.Errorf("%+v", got)
	}
	if n := c.available(t, s); n != 250 {
		t.Errorf("%d addresses are available while one is releasing", n)
	}
	e := as[*vpc.DependencyError](t, c.DeleteSubnet(ctx, a, s.ID))
	if len(e.Dependents) != 1 || e.Dependents[0].ID != string(id) {
		t.Errorf("%+v", e)
	}
	c.checkRelease(t, id, a)
	if n := c.available(t, s); n != 251 {
		t.Errorf("%d addresses are available after the release", n)
	}
	_, err = c.DescribeInterfaces(ctx, a, []ids.Interface{id}, nil)
	as[*vpc.NotFoundError](t, err)
	if err := c.DeleteSubnet(ctx, a, s.ID); err != nil {
		t.Fatal(err)
	}
}

// checkTold compares what hosts are told with the interface.
func (c *cloud) checkTold(t *testing.T, i vpc.Interface, v vpc.VPC) {
	t.Helper()
	told := items[host.Interface](t, c, host.DocHost(i.Host), host.SectionInterfaces)[string(i.ID)]
	if address, err := told.Address(); err != nil || address != i.Address || told.VNI != v.VNI || told.Validate() != nil || !told.SourceDestCheck {
		t.Errorf("the host is told %+v", told)
	}
	mapping := items[host.Mapping](t, c, host.DocVPC(v.ID), host.SectionMappings)[string(i.ID)]
	if address, err := mapping.Address(); err != nil || address != i.Address || mapping.Host != i.Host || mapping.Instance != i.Instance {
		t.Errorf("the VPC's hosts are told %+v", mapping)
	}
	if known := items[host.Identity](t, c, host.DocVPC(v.ID), host.SectionIdentities); len(known) == 0 {
		t.Error("no identity is known")
	}
}

// checkRelease releases an interface at its mark, and not before.
func (c *cloud) checkRelease(t *testing.T, id ids.Interface, a ids.Account) {
	t.Helper()
	ctx := t.Context()
	var i vpcrows.Interface
	err := c.db.View(ctx, func(r store.Reader) (err error) {
		i, err = vpcrows.GetInterface(ctx, r, a, id)
		return err
	})
	if err != nil || i.ReleaseSeq == 0 {
		t.Fatalf("%+v, %v", i, err)
	}
	for _, early := range [][]ids.Interface{
		must(c.ReleaseApplied(ctx, testHost, i.ReleaseSeq-1, nil))(t),
		must(c.ReleaseApplied(ctx, testHost, i.ReleaseSeq, []ids.Interface{id}))(t),
		must(c.ReleaseApplied(ctx, "h-other", i.ReleaseSeq, nil))(t),
	} {
		if len(early) != 0 {
			t.Fatalf("released too early: %v", early)
		}
	}
	if released := must(c.ReleaseApplied(ctx, testHost, i.ReleaseSeq, nil))(t); len(released) != 1 || released[0] != id {
		t.Fatalf("released %v", released)
	}
	if again := must(c.ReleaseApplied(ctx, testHost, i.ReleaseSeq, nil))(t); len(again) != 0 {
		t.Fatalf("released again: %v", again)
	}
}

func TestAddressesAskedFor(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	s := c.subnet(t, c.vpc(t, a, "10.0.0.0/16"), "10.0.7.0/28")
	r := vpc.PrepareRequest{Account: a, Subnet: s.ID}
	id, address, _, err := c.launch(ctx, r, netip.MustParseAddr("10.0.7.9"))
	if err != nil || address.String() != "10.0.7.9" {
		t.Fatalf("%v, %v", address, err)
	}
	c.checkTold(t, must(c.DescribeInterfaces(ctx, a, []ids.Interface{id}, nil))(t)[0], must(c.DescribeVPCs(ctx, a, []ids.VPC{s.VPC}, nil))(t)[0])
	_, _, _, err = c.launch(ctx, r, address)
	if e := as[*vpc.AddressInUseError](t, err); e.Address != address || e.Subnet != s.ID {
		t.Errorf("%+v", e)
	}
	for _, bad := range []string{"10.0.7.0", "10.0.7.3", "10.0.7.15", "10.0.7.16", "10.0.6.255", "fd00::1"} {
		_, _, _, err := c.launch(ctx, r, netip.MustParseAddr(bad))
		if e := as[*vpc.AddressError](t, err); e.Address.String() != bad {
			t.Errorf("%+v", e)
		}
	}
	for range 10 {
		if _, _, _, err := c.launch(ctx, r, netip.Addr{}); err != nil {
			t.Fatal(err)
		}
	}
	_, _, _, err = c.launch(ctx, r, netip.Addr{})
	if e := as[*vpc.NoAddressError](t, err); e.Subnet != s.ID {
		t.Errorf("%+v", e)
	}
}

func TestAttachChecksWhatWasPrepared(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	s, g := c.subnet(t, v, "10.0.0.0/24"), c.group(t, v, "g")
	r := vpc.PrepareRequest{Account: a, Subnet: s.ID, Groups: []ids.SecurityGroup{g.ID}}
	p := must(c.Prepare(ctx, r))(t)
	if err := c.DeleteGroup(ctx, a, g.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := c.attach(ctx, p, netip.Addr{}, testHost); !errors.Is(err, vpc.ErrStale) {
		t.Errorf("group is gone: %v", err)
	}
	r.Retry = true
	_, err := c.Prepare(ctx, r)
	if e := as[*vpc.NotFoundError](t, err); e.Kind != vpc.KindGroup || e.ID != string(g.ID) {
		t.Errorf("%+v", e)
	}
	p = must(c.Prepare(ctx, vpc.PrepareRequest{Account: a, Subnet: s.ID}))(t)
	if err := c.accounts.SetQuota(ctx, a, account.QuotaInterfaces, 0); err != nil {
		t.Fatal(err)
	}
	_, _, _, err = c.attach(ctx, p, netip.Addr{}, testHost)
	if e := as[*account.QuotaError](t, err); e.Quota != account.QuotaInterfaces {
		t.Errorf("%+v", e)
	}
	if err := c.DeleteSubnet(ctx, a, s.ID); err != nil {
		t.Fatal(err)
	}
	_, _, _, err = c.attach(ctx, p, netip.Addr{}, testHost)
	if e := as[*vpc.NotFoundError](t, err); e.Kind != vpc.KindSubnet || e.ID != string(s.ID) {
		t.Errorf("%+v", e)
	}
}

// TestPrepareTrustsTheViewOnce: a view that stands still answers, but not a retry.
func TestPrepareTrustsTheViewOnce(t *testing.T) {
	c := newCloud(t)
	a := c.account(t, "a")
	frozen := must(New(c.db, Options{Region: "r", Zones: c.zones, Tags: c.accounts.Tags()}))(t)
	ctx, freeze := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- frozen.Run(ctx) }()
	r := vpc.PrepareRequest{Account: a}
	must(frozen.Prepare(t.Context(), r))(t)
	must(frozen.DescribeVPCs(t.Context(), a, nil, nil))(t) // the view has the identity too
	freeze()
	<-done
	c.vpc(t, a, "10.0.0.0/16") // the store moves on
	must(frozen.Prepare(t.Context(), r))(t)
	r.Retry = true
	if _, err := frozen.Prepare(t.Context(), r); !errors.Is(err, vpc.ErrBehind) {
		t.Errorf("Prepare after ErrStale: %v", err)
	}
}

func TestPrepare(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	home := must(c.EnsureDefault(ctx, a))(t)
	p := must(c.Prepare(ctx, vpc.PrepareRequest{Account: a}))(t)
	if p.VPC.ID != home.ID || p.Subnet.Zone != "z-1a" || len(p.Identity.Groups) != 1 || p.Identity.Groups[0] != home.DefaultGroup || p.Names[0] != "default" {
		t.Errorf("%+v", p)
	}
	if _, _, _, err := c.attach(ctx, p, netip.Addr{}, testHost); err != nil {
		t.Fatal(err)
	}
	if n := c.available(t, p.Subnet); n != 4090 {
		t.Errorf("%d addresses are available", n)
	}
	if next := must(c.Prepare(ctx, vpc.PrepareRequest{Account: a}))(t); next.Subnet.Zone != "z-1b" { // has more room
		t.Errorf("%+v", next.Subnet)
	}
	if there := must(c.Prepare(ctx, vpc.PrepareRequest{Account: a, Zone: "z-1c"}))(t); there.Subnet.Zone != "z-1c" {
		t.Errorf("%+v", there.Subnet)
	}
	other := c.vpc(t, a, "10.0.0.0/16")
	six := make([]ids.SecurityGroup, 6)
	for i := range six {
		six[i] = c.group(t, home, name(i)).ID
	}
	for want, r := range map[vpc.Kind]vpc.PrepareRequest{
		vpc.KindDefaultSubnet: {Zone: "mars"},
		vpc.KindSubnet:        {Subnet: "subnet-00000000"},
		vpc.KindGroupName:     {GroupNames: []string{"nobody"}},
		vpc.KindGroup:         {Groups: []ids.SecurityGroup{other.DefaultGroup}},
	} {
		r.Account = a
		_, err := c.Prepare(ctx, r)
		if e := as[*vpc.NotFoundError](t, err); e.Kind != want {
			t.Errorf("%+v", e)
		}
	}
	_, err := c.Prepare(ctx, vpc.PrepareRequest{Account: a, Groups: six})
	if e := as[*vpc.LimitError](t, err); e.Limit != vpc.LimitGroupsPerInterface {
		t.Errorf("%+v", e)
	}
	_, err = c.PrepareIdentity(ctx, a, home.ID, nil)
	as[*vpc.InvalidError](t, err)
	_, err = c.PrepareIdentity(ctx, a, other.ID, six[:1])
	as[*vpc.NotFoundError](t, err)
}

func TestMove(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	s := c.subnet(t, v, "10.0.0.0/24")
	id, address, _, err := c.launch(ctx, vpc.PrepareRequest{Account: a, Subnet: s.ID}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	const next ids.Host = "h-fedcba98765432100"
	move := func(h ids.Host) error {
		_, err := c.db.Transact(ctx, func(tx *store.Tx) error {
			label := tx.FirstOf([]store.Alternative{{Label: []byte(h), Guards: func(*store.Tx) {}}})
			return vpcrows.Move(ctx, tx, a, id, label)
		})
		return err
	}
	for _, h := range []ids.Host{next, next, testHost, next} { // also to where it is, and back
		if err := move(h); err != nil {
			t.Fatal(err)
		}
		got := must(c.DescribeInterfaces(ctx, a, []ids.Interface{id}, nil))(t)[0]
		if got.Host != h || got.Address != address {
			t.Errorf("%+v", got)
		}
		c.checkTold(t, got, v)
	}
	if left := items[host.Interface](t, c, host.DocHost(testHost), host.SectionInterfaces); len(left) != 0 {
		t.Errorf("the old host still has %+v", left)
	}
	if err := c.detach(ctx, a, id); err != nil {
		t.Fatal(err)
	}
	as[*vpc.NotFoundError](t, move(testHost))
	if released := must(c.ReleaseApplied(ctx, next, 1<<40, nil))(t); len(released) != 1 {
		t.Errorf("released %v", released)
	}
}

func TestReleaseRefusesWhatIsInUse(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	id, _, _, err := c.launch(ctx, vpc.PrepareRequest{Account: a}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	release := func(id ids.Interface) error {
		_, err := c.db.Transact(ctx, func(tx *store.Tx) error { return vpcrows.Release(ctx, tx, a, id) })
		return err
	}
	if err := release(id); err == nil {
		t.Error("an interface in use was released")
	}
	if err := release("eni-00000000"); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
}

// TestAttachInsideGroups: as a launch of several with a lower bound does it, in a subnet with room for fewer.
func TestAttachInsideGroups(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	s := c.subnet(t, c.vpc(t, a, "10.0.0.0/16"), "10.0.0.0/28") // 11 addresses
	p := must(c.Prepare(ctx, vpc.PrepareRequest{Account: a, Subnet: s.ID}))(t)
	launch := func(atLeast int) (int, error) {
		var ran []store.Slot
		result, err := c.db.Transact(ctx, func(tx *store.Tx) error {
			vpcrows.ExpectPrepared(tx, p)
			var groups []func(*store.Tx)
			for range 14 {
				groups = append(groups, func(tx *store.Tx) {
					label := tx.FirstOf([]store.Alternative{{Label: []byte(testHost), Guards: func(*store.Tx) {}}})
					_, err := vpcrows.Attach(tx, vpcrows.AttachRequest{
						Prepared: p, Interface: ids.New[ids.Interface](c.env.Random), Instance: "i-00000000", Host: label, Created: c.now(),
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			ran = tx.AtLeast(atLeast, groups)
			return nil
		})
		if err != nil {
			return 0, err
		}
		n := 0
		for _, slot := range ran {
			if result.Ran(slot) {
				n++
			}
		}
		return n, nil
	}
	_, err := launch(12)
	as[*vpc.NoAddressError](t, err)
	if n := must(launch(3))(t); n != 11 || c.available(t, s) != 0 {
		t.Errorf("%d of 14 were attached, %d addresses are left", n, c.available(t, s))
	}
}

// TestAttachNeverConflicts: 64 launchers into one subnet and one group, while others edit the group's rules, the quota
// and the VPC. No launch runs twice, and no address is given twice.
func TestAttachNeverConflicts(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	s, g := c.subnet(t, v, "10.0.0.0/22"), c.group(t, v, "g")
	p := vpc.PrepareRequest{Account: a, Subnet: s.ID, Groups: []ids.SecurityGroup{g.ID}}

	stop, edited := context.WithCancel(ctx)
	var editors sync.WaitGroup
	defer editors.Wait()
	defer edited()
	for i := range 4 {
		editors.Go(func() { c.edit(t, stop, v, g, i) })
	}
	var launchers sync.WaitGroup
	var conflicts atomic.Int64
	var given sync.Map
	for range 64 {
		launchers.Go(func() {
			for range 8 {
				id, address, result, err := c.launch(ctx, p, netip.Addr{})
				if err != nil {
					t.Error(err)
					return
				}
				conflicts.Add(int64(result.Attempts - 1))
				if other, twice := given.LoadOrStore(address, id); twice {
					t.Errorf("%s has address %s, as %s has", id, address, other)
				}
			}
		})
	}
	launchers.Wait()
	if n := conflicts.Load(); n != 0 {
		t.Errorf("%d conflicts", n)
	}
	if n := c.available(t, s); n != 1019-64*8 {
		t.Errorf("%d addresses are available", n)
	}
}

// edit changes rules, quota and VPC until it is told to stop.
func (c *cloud) edit(t *testing.T, stop context.Context, v vpc.VPC, g vpc.SecurityGroup, i int) {
	ctx := context.WithoutCancel(stop)
	rule := []vpc.RuleSpec{tcp(i, "0.0.0.0/0")}
	for n := int64(0); stop.Err() == nil; n++ {
		_, err := c.Authorize(ctx, vpc.AuthorizeRequest{Account: v.Account, Group: g.ID, Rules: rule})
		if err == nil {
			_, err = c.Revoke(ctx, vpc.RevokeRequest{Account: v.Account, Group: g.ID, Rules: rule})
		}
		on := n%2 == 0
		err = errors.Join(err, c.ModifyVPC(ctx, v.Account, v.ID, vpc.VPCChange{DNSHostnames: &on}),
			c.accounts.SetQuota(ctx, v.Account, account.QuotaInterfaces, 5000+n))
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// TestIdentitiesAreInternedOnce: who asks for the same set at the same time gets the same number, and the only one.
func TestIdentitiesAreInternedOnce(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	g := c.group(t, v, "g")
	numbers := make([]uint16, 64)
	var wait sync.WaitGroup
	for i := range numbers {
		wait.Go(func() {
			groups := []ids.SecurityGroup{g.ID, v.DefaultGroup}
			if i%2 == 0 {
				groups = []ids.SecurityGroup{v.DefaultGroup, g.ID}
			}
			identity, err := c.PrepareIdentity(ctx, a, v.ID, groups)
			if err != nil {
				t.Error(err)
			}
			numbers[i] = identity.Number
		})
	}
	wait.Wait()
	for _, n := range numbers {
		if n != 1 {
			t.Fatalf("numbers %v", numbers)
		}
	}
	known := items[host.Identity](t, c, host.DocVPC(v.ID), host.SectionIdentities)
	if len(known) != 1 || len(known["1"].Groups) != 2 {
		t.Errorf("hosts know %v", known)
	}
}

func TestHostsKnowTheRules(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	g := c.group(t, v, "g")
	must(c.Authorize(ctx, vpc.AuthorizeRequest{Account: a, Group: g.ID, Rules: []vpc.RuleSpec{
		tcp(22, "10.0.0.0/8"),
		{Protocol: vpc.ICMP, FromPort: 8, ToPort: vpc.AnyPort, Peer: g.ID},
		{Protocol: vpc.UDP, FromPort: vpc.AnyPort, ToPort: vpc.AnyPort, Peer: v.DefaultGroup},
	}}))(t)
	known := items[host.Group](t, c, host.DocVPC(v.ID), host.SectionGroups)[string(g.ID)]
	got := map[string]bool{}
	for _, r := range known.Ingress {
		got[fmt.Sprint(r.Protocol, " ", r.Any, " ", r.FromPort, " ", r.ToPort, " ", r.CIDR, r.Group)] = true
	}
	for _, want := range []string{
		"6 false 22 22 10.0.0.0/8",
		fmt.Sprint("1 false 8 65535 ", g.ID),
		fmt.Sprint("17 false 0 65535 ", v.DefaultGroup),
	} {
		if !got[want] {
			t.Errorf("hosts do not know %q: %v", want, got)
		}
	}
	if len(known.Egress) != 1 || !known.Egress[0].Any || known.Egress[0].Protocol != 0 || known.Egress[0].CIDR != "0.0.0.0/0" {
		t.Errorf("%+v", known.Egress)
	}
	if err := c.DeleteVPC(ctx, a, c.vpc(t, a, "10.9.0.0/16").ID); err != nil {
		t.Fatal(err)
	}
}
