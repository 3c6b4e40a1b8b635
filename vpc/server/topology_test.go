package server

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/vpc"
)

func TestDefaultVPC(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := must(c.EnsureDefault(ctx, a))(t)
	if !v.Default || v.CIDR.String() != "172.31.0.0/16" || !v.DNSHostnames || !v.DNSSupport || v.VNI == 0 {
		t.Errorf("%+v", v)
	}
	subnets := must(c.DescribeSubnets(ctx, a, nil, nil))(t)
	var got []string
	for _, s := range subnets {
		got = append(got, fmt.Sprint(s.Zone, " ", s.CIDR, " ", s.AvailableAddresses, " ", s.Default, " ", s.VPC == v.ID))
	}
	slices.Sort(got)
	want := []string{"z-1a 172.31.0.0/20 4091 true true", "z-1b 172.31.16.0/20 4091 true true", "z-1c 172.31.32.0/20 4091 true true"}
	if !slices.Equal(got, want) {
		t.Errorf("default subnets %v", got)
	}
	if again := must(c.EnsureDefault(ctx, a))(t); again.ID != v.ID {
		t.Errorf("ensured again: %s and %s", v.ID, again.ID)
	}
	for _, s := range subnets {
		if err := c.DeleteSubnet(ctx, a, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.DeleteVPC(ctx, a, v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnsureDefault(ctx, a); !errors.Is(err, vpc.ErrNoDefaultVPC) {
		t.Errorf("after its deletion: %v", err)
	}
	if _, err := c.Prepare(ctx, vpc.PrepareRequest{Account: a}); !errors.Is(err, vpc.ErrNoDefaultVPC) {
		t.Errorf("Prepare: %v", err)
	}
	if _, err := c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: a, Name: "x", Description: "x"}); !errors.Is(err, vpc.ErrNoDefaultVPC) {
		t.Errorf("CreateGroup: %v", err)
	}
	_, err := c.EnsureDefault(ctx, "999999999999")
	as[*account.NotFoundError](t, err)
}

func TestCreateVPCMakesWhatBelongsToIt(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	r := vpc.CreateVPCRequest{Account: a, CIDR: netip.MustParsePrefix("10.1.2.3/16"), Tags: map[string]string{"k": "v"}}
	made := must(c.CreateVPC(ctx, r))(t)
	seen := must(c.DescribeVPCs(ctx, a, []ids.VPC{made.ID}, nil))(t)
	if len(seen) != 1 || fmt.Sprint(seen[0]) != fmt.Sprint(made) || made.CIDR.String() != "10.1.0.0/16" || made.Tags["k"] != "v" {
		t.Errorf("made %+v, seen %+v", made, seen)
	}
	tables := must(c.DescribeRouteTables(ctx, a, []ids.RouteTable{made.MainRouteTable}, nil))(t)
	if tables[0].VPC != made.ID || tables[0].Local != made.CIDR || tables[0].Association == "" {
		t.Errorf("%+v", tables[0])
	}
	subnet := c.subnet(t, made, "10.1.1.0/24")
	acls := must(c.DescribeNetworkACLs(ctx, a, []ids.NetworkACL{made.DefaultACL}, nil))(t)
	if acls[0].VPC != made.ID || len(acls[0].Associations) != 1 || acls[0].Associations[0].Subnet != subnet.ID {
		t.Errorf("%+v", acls[0])
	}
	options := must(c.DescribeDHCPOptions(ctx, a, []ids.DHCPOptions{made.DHCPOptions}, nil))(t)
	if options[0].DomainName != "us-test-1.compute.internal" {
		t.Errorf("%+v", options[0])
	}
	group := must(c.DescribeGroups(ctx, a, []ids.SecurityGroup{made.DefaultGroup}, nil))(t)[0]
	if !group.Default || group.Name != "default" || group.VPC != made.ID || len(group.Rules) != 2 {
		t.Fatalf("%+v", group)
	}
	for _, rule := range group.Rules {
		self, everywhere := rule.Peer == group.ID, rule.CIDR.String() == "0.0.0.0/0"
		if rule.Protocol != vpc.AllProtocols || rule.Egress != everywhere || rule.Egress == self {
			t.Errorf("%+v", rule)
		}
	}
}

func TestVPCRangeErrors(t *testing.T) {
	c := newCloud(t)
	a := c.account(t, "a")
	for _, cidr := range []string{"10.0.0.0/15", "10.0.0.0/29", "fd00::/16", "127.0.0.0/16", "169.254.0.0/16", "224.0.0.0/16", "0.1.0.0/16", "255.0.0.0/16"} {
		_, err := c.CreateVPC(t.Context(), vpc.CreateVPCRequest{Account: a, CIDR: netip.MustParsePrefix(cidr)})
		if e := as[*vpc.RangeError](t, err); e.Kind != vpc.KindVPC {
			t.Errorf("%s: %+v", cidr, e)
		}
	}
	_, err := c.CreateVPC(t.Context(), vpc.CreateVPCRequest{Account: a})
	as[*vpc.RangeError](t, err)
	_, err = c.CreateVPC(t.Context(), vpc.CreateVPCRequest{Account: a, CIDR: netip.MustParsePrefix("10.0.0.0/16"), Tags: map[string]string{"": ""}})
	as[*account.InvalidError](t, err)
	_, err = c.CreateVPC(t.Context(), vpc.CreateVPCRequest{Account: "999999999999", CIDR: netip.MustParsePrefix("10.0.0.0/16")})
	as[*account.NotFoundError](t, err)
}

func TestVPCQuota(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	if err := c.accounts.SetQuota(ctx, a, account.QuotaVPCs, 2); err != nil {
		t.Fatal(err)
	}
	v := c.vpc(t, a, "10.0.0.0/16") // the second, after the default one
	r := vpc.CreateVPCRequest{Account: a, CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	_, err := c.CreateVPC(ctx, r)
	if e := as[*account.QuotaError](t, err); e.Quota != account.QuotaVPCs {
		t.Errorf("%+v", e)
	}
	if err := c.DeleteVPC(ctx, a, v.ID); err != nil {
		t.Fatal(err)
	}
	must(c.CreateVPC(ctx, r))(t)
}

func TestVPCAttributes(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	yes, no := true, false
	if err := c.ModifyVPC(ctx, a, v.ID, vpc.VPCChange{DNSHostnames: &yes}); err != nil {
		t.Fatal(err)
	}
	if err := c.ModifyVPC(ctx, a, v.ID, vpc.VPCChange{DNSSupport: &no}); err != nil {
		t.Fatal(err)
	}
	got := must(c.DescribeVPCs(ctx, a, []ids.VPC{v.ID}, nil))(t)[0]
	if !got.DNSHostnames || got.DNSSupport || got.VNI != v.VNI {
		t.Errorf("%+v", got)
	}
	as[*vpc.NotFoundError](t, c.ModifyVPC(ctx, a, "vpc-00000000", vpc.VPCChange{}))
}

func TestSubnets(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	first := c.subnet(t, v, "10.0.1.77/24")
	if first.CIDR.String() != "10.0.1.0/24" || first.AvailableAddresses != 251 || first.Zone != "z-1a" || first.Default || first.MapPublicIPOnLaunch {
		t.Errorf("%+v", first)
	}
	if second := c.subnet(t, v, "10.0.2.0/28"); second.AvailableAddresses != 11 || second.Zone != "z-1b" {
		t.Errorf("%+v", second)
	}
	create := func(in ids.VPC, cidr, zone string) error {
		_, err := c.CreateSubnet(ctx, vpc.CreateSubnetRequest{Account: a, VPC: in, CIDR: netip.MustParsePrefix(cidr), Zone: zone})
		return err
	}
	for _, cidr := range []string{"10.0.1.0/24", "10.0.1.128/25", "10.0.0.0/16"} {
		if e := as[*vpc.ConflictError](t, create(v.ID, cidr, "")); cidr != "10.0.0.0/16" && e.With != first.ID {
			t.Errorf("%s: %+v", cidr, e)
		}
	}
	for _, cidr := range []string{"10.1.0.0/24", "10.0.0.0/15", "10.0.3.0/29", "fd00::/24"} {
		if e := as[*vpc.RangeError](t, create(v.ID, cidr, "")); e.Kind != vpc.KindSubnet {
			t.Errorf("%s: %+v", cidr, e)
		}
	}
	if e := as[*vpc.InvalidError](t, create(v.ID, "10.0.3.0/24", "mars")); e.Param != "AvailabilityZone" {
		t.Errorf("%+v", e)
	}
	if e := as[*vpc.NotFoundError](t, create("vpc-00000000", "10.0.3.0/24", "")); e.Kind != vpc.KindVPC {
		t.Errorf("%+v", e)
	}
	yes := true
	if err := c.ModifySubnet(ctx, a, first.ID, vpc.SubnetChange{MapPublicIPOnLaunch: &yes}); err != nil {
		t.Fatal(err)
	}
	if got := must(c.DescribeSubnets(ctx, a, []ids.Subnet{first.ID}, nil))(t)[0]; !got.MapPublicIPOnLaunch {
		t.Errorf("%+v", got)
	}
	as[*vpc.NotFoundError](t, c.ModifySubnet(ctx, a, "subnet-00000000", vpc.SubnetChange{}))
	as[*vpc.NotFoundError](t, c.DeleteSubnet(ctx, a, "subnet-00000000"))
	if err := c.DeleteSubnet(ctx, a, first.ID); err != nil {
		t.Fatal(err)
	}
	if err := create(v.ID, "10.0.1.0/25", "z-1c"); err != nil { // its range is free again
		t.Fatal(err)
	}
}

func TestSubnetLimit(t *testing.T) {
	c := newCloud(t)
	a := c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	for i := range vpc.MaxSubnetsPerVPC {
		c.subnet(t, v, fmt.Sprintf("10.0.%d.0/28", i))
	}
	_, err := c.CreateSubnet(t.Context(), vpc.CreateSubnetRequest{Account: a, VPC: v.ID, CIDR: netip.MustParsePrefix("10.0.250.0/28")})
	if e := as[*vpc.LimitError](t, err); e.Limit != vpc.LimitSubnetsPerVPC || e.ID != string(v.ID) {
		t.Errorf("%+v", e)
	}
}

func TestDeleteVPCDependencies(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	s, g := c.subnet(t, v, "10.0.0.0/24"), c.group(t, v, "g")
	e := as[*vpc.DependencyError](t, c.DeleteVPC(ctx, a, v.ID))
	want := []vpc.Dependent{{Kind: vpc.KindSubnet, ID: string(s.ID)}, {Kind: vpc.KindGroup, ID: string(g.ID)}}
	if e.Kind != vpc.KindVPC || e.ID != string(v.ID) || !slices.Equal(e.Dependents, want) {
		t.Errorf("%+v", e)
	}
	if err := c.DeleteSubnet(ctx, a, s.ID); err != nil {
		t.Fatal(err)
	}
	as[*vpc.DependencyError](t, c.DeleteVPC(ctx, a, v.ID))
	if err := c.DeleteGroup(ctx, a, g.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteVPC(ctx, a, v.ID); err != nil {
		t.Fatal(err)
	}
	as[*vpc.NotFoundError](t, c.DeleteVPC(ctx, a, v.ID))
	err := c.db.View(ctx, func(r store.Reader) error {
		seq, err := dispatchrows.Seq(ctx, r, dispatch.SectionID{Doc: host.DocVPC(v.ID), Section: host.SectionGroups})
		if seq != 0 {
			t.Errorf("the VPC's document is left at %d", seq)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if next := c.vpc(t, a, "10.0.0.0/16"); next.VNI <= v.VNI {
		t.Errorf("VNI %d after %d", next.VNI, v.VNI)
	}
}

func TestAnotherAccountSeesNothing(t *testing.T) {
	c := newCloud(t)
	ctx, a, b := t.Context(), c.account(t, "a"), c.account(t, "b")
	v := c.vpc(t, a, "10.0.0.0/16")
	s, g := c.subnet(t, v, "10.0.0.0/24"), c.group(t, v, "g")
	_, describeVPC := c.DescribeVPCs(ctx, b, []ids.VPC{v.ID}, nil)
	_, describeGroup := c.DescribeGroups(ctx, b, []ids.SecurityGroup{g.ID}, nil)
	_, createSubnet := c.CreateSubnet(ctx, vpc.CreateSubnetRequest{Account: b, VPC: v.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")})
	_, createGroup := c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: b, VPC: v.ID, Name: "x", Description: "x"})
	_, prepare := c.Prepare(ctx, vpc.PrepareRequest{Account: b, Subnet: s.ID})
	_, identity := c.PrepareIdentity(ctx, b, v.ID, []ids.SecurityGroup{g.ID})
	for i, err := range []error{
		describeVPC, describeGroup, createSubnet, createGroup, prepare, identity,
		c.DeleteVPC(ctx, b, v.ID), c.DeleteSubnet(ctx, b, s.ID), c.DeleteGroup(ctx, b, g.ID),
		c.ModifyVPC(ctx, b, v.ID, vpc.VPCChange{}), c.ModifySubnet(ctx, b, s.ID, vpc.SubnetChange{}),
	} {
		if !isNotFound(err) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	_, err := c.Authorize(ctx, vpc.AuthorizeRequest{Account: b, Group: g.ID, Rules: []vpc.RuleSpec{tcp(22, "0.0.0.0/0")}})
	as[*vpc.NotFoundError](t, err)
	if mine := must(c.DescribeVPCs(ctx, b, nil, nil))(t); len(mine) != 1 || !mine[0].Default {
		t.Errorf("%+v", mine)
	}
}

func TestTagsOfResources(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	s, g := c.subnet(t, v, "10.0.0.0/24"), c.group(t, v, "g")
	id, _, _, err := c.launch(ctx, vpc.PrepareRequest{Account: a, Subnet: s.ID}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	tagged := []string{
		string(v.ID), string(s.ID), string(g.ID), string(g.Rules[0].ID), string(id),
		string(v.MainRouteTable), string(v.DefaultACL), string(v.DHCPOptions),
	}
	if err := c.accounts.Tags().CreateTags(ctx, a, tagged, map[string]string{"x": "y"}); err != nil {
		t.Fatal(err)
	}
	tags := must(c.accounts.Tags().DescribeTags(ctx, a, nil))(t)
	if len(tags) != len(tagged) {
		t.Errorf("%+v", tags)
	}
	has := func(v *vpc.VPC) bool { return v.Tags["x"] == "y" }
	if got := must(c.DescribeVPCs(ctx, a, nil, has))(t); len(got) != 1 || got[0].ID != v.ID {
		t.Errorf("%+v", got)
	}
	err = c.accounts.Tags().CreateTags(ctx, a, []string{string(v.ID), "subnet-00000000"}, map[string]string{"x": "z"})
	as[*account.NotFoundError](t, err)
	// All of them go, and the invariant at the end sees a tag left behind.
	if err := c.detach(ctx, a, id); err != nil {
		t.Fatal(err)
	}
	must(c.ReleaseApplied(ctx, testHost, 1<<40, nil))(t)
	if err := errors.Join(c.DeleteGroup(ctx, a, g.ID), c.DeleteSubnet(ctx, a, s.ID), c.DeleteVPC(ctx, a, v.ID)); err != nil {
		t.Fatal(err)
	}
}

// TestConcurrentSubnetsNeverOverlap: of 64 creators of 16 ranges, one of each range succeeds.
func TestConcurrentSubnetsNeverOverlap(t *testing.T) {
	c := newCloud(t)
	a := c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	made := make([]bool, 64)
	var wait sync.WaitGroup
	for i := range made {
		wait.Go(func() {
			cidr := netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i%16))
			_, err := c.CreateSubnet(t.Context(), vpc.CreateSubnetRequest{Account: a, VPC: v.ID, CIDR: cidr})
			var taken *vpc.ConflictError
			if made[i] = err == nil; err != nil && !errors.As(err, &taken) {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for i := range 16 {
		n := 0
		for j := i; j < len(made); j += 16 {
			if made[j] {
				n++
			}
		}
		if n != 1 {
			t.Errorf("range %d was created %d times", i, n)
		}
	}
}

func TestReadsWithoutAViewAreBehind(t *testing.T) {
	c := newCloud(t)
	lonely := must(New(store.New(storetest.NewMemory(), store.Options{}), Options{Region: "r", Zones: []string{"z"}, Tags: c.accounts.Tags()}))(t)
	if _, err := lonely.db.Transact(t.Context(), func(tx *store.Tx) error { tx.Put(store.Key("x"), store.Int(1)); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := lonely.DescribeVPCs(t.Context(), "999999999999", nil, nil); !errors.Is(err, vpc.ErrBehind) {
		t.Errorf("DescribeVPCs: %v", err)
	}
}

func TestOptionsValidate(t *testing.T) {
	c := newCloud(t)
	good := Options{Region: "r", Zones: []string{"z"}, Tags: c.accounts.Tags()}
	for _, spoil := range []func(*Options){
		func(o *Options) { o.Region = "" },
		func(o *Options) { o.Zones = nil },
		func(o *Options) { o.Zones = make([]string, 17) },
		func(o *Options) { o.Tags = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(c.db, bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
