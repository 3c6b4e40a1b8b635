package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

func tcp(port int, cidr string) vpc.RuleSpec {
	return vpc.RuleSpec{Protocol: vpc.TCP, FromPort: port, ToPort: port, CIDR: netip.MustParsePrefix(cidr)}
}

func fromGroup(port int, g vpc.SecurityGroup) vpc.RuleSpec {
	return vpc.RuleSpec{Protocol: vpc.TCP, FromPort: port, ToPort: port, Peer: g.ID}
}

// rules returns the ids of a group's rules of one direction.
func (c *cloud) rules(t *testing.T, g vpc.SecurityGroup, egress bool) []vpc.Rule {
	t.Helper()
	return must(c.DescribeRules(t.Context(), g.Account, nil, func(r *vpc.Rule) bool { return r.Group == g.ID && r.Egress == egress }))(t)
}

func TestCreateGroup(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v, other := c.vpc(t, a, "10.0.0.0/16"), c.vpc(t, a, "10.0.0.0/16")
	g := c.group(t, v, "web")
	if out := c.rules(t, g, true); len(out) != 1 || out[0].Protocol != vpc.AllProtocols || len(c.rules(t, g, false)) != 0 {
		t.Errorf("rules of a new group: %+v", out)
	}
	_, err := c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: a, VPC: v.ID, Name: "web", Description: "x"})
	if e := as[*vpc.GroupDuplicateError](t, err); e.VPC != v.ID || e.Name != "web" {
		t.Errorf("%+v", e)
	}
	c.group(t, other, "web") // the same name elsewhere
	inDefault := must(c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: a, Name: "web", Description: "x"}))(t)
	if home := must(c.EnsureDefault(ctx, a))(t); inDefault.VPC != home.ID {
		t.Errorf("%+v", inDefault)
	}
	for param, r := range map[string]vpc.CreateGroupRequest{
		"GroupName":        {Name: "ü", Description: "x"},
		"GroupDescription": {Name: "x", Description: ""},
	} {
		r.Account, r.VPC = a, v.ID
		_, err := c.CreateGroup(ctx, r)
		if e := as[*vpc.InvalidError](t, err); e.Param != param {
			t.Errorf("%+v", e)
		}
	}
	for _, bad := range []string{"", "sg-1", strings.Repeat("x", 256)} {
		_, err := c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: a, VPC: v.ID, Name: bad, Description: "x"})
		as[*vpc.InvalidError](t, err)
	}
	_, err = c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: a, VPC: "vpc-00000000", Name: "x", Description: "x"})
	as[*vpc.NotFoundError](t, err)
	if err := c.accounts.SetQuota(ctx, a, account.QuotaSecurityGroups, 1); err != nil {
		t.Fatal(err)
	}
	_, err = c.CreateGroup(ctx, vpc.CreateGroupRequest{Account: a, VPC: v.ID, Name: "more", Description: "x"})
	as[*account.QuotaError](t, err)
}

func TestAuthorizeAndRevoke(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	g, peer := c.group(t, v, "g"), c.group(t, v, "peer")
	authorize := func(rules ...vpc.RuleSpec) ([]vpc.Rule, error) {
		return c.Authorize(ctx, vpc.AuthorizeRequest{Account: a, Group: g.ID, Rules: rules, Tags: map[string]string{"k": "v"}})
	}
	made := must(authorize(tcp(22, "10.9.8.7/16"), fromGroup(80, peer), fromGroup(81, g)))(t)
	if len(made) != 3 || made[0].CIDR.String() != "10.9.0.0/16" || made[1].Peer != peer.ID {
		t.Fatalf("%+v", made)
	}
	seen := must(c.DescribeRules(ctx, a, []ids.SecurityGroupRule{made[0].ID}, nil))(t)
	if seen[0].Tags["k"] != "v" || seen[0].RuleSpec != made[0].RuleSpec {
		t.Errorf("%+v", seen[0])
	}
	// All or nothing: the second rule is there already, so the first is not added.
	_, err := authorize(tcp(23, "0.0.0.0/0"), tcp(22, "10.9.0.0/16"))
	if e := as[*vpc.PermissionError](t, err); e.Problem != vpc.ProblemDuplicate || e.Group != g.ID || e.Rule.FromPort != 22 {
		t.Errorf("%+v", e)
	}
	if in := c.rules(t, g, false); len(in) != 3 {
		t.Errorf("%+v", in)
	}
	revoke := func(r vpc.RevokeRequest) ([]vpc.Rule, error) {
		r.Account, r.Group = a, g.ID
		return c.Revoke(ctx, r)
	}
	_, err = revoke(vpc.RevokeRequest{Rules: []vpc.RuleSpec{tcp(22, "10.9.0.0/16"), tcp(23, "0.0.0.0/0")}})
	if e := as[*vpc.PermissionError](t, err); e.Problem != vpc.ProblemNotFound || e.Rule.FromPort != 23 {
		t.Errorf("%+v", e)
	}
	_, err = revoke(vpc.RevokeRequest{RuleIDs: []ids.SecurityGroupRule{made[0].ID, "sgr-00000000"}})
	if e := as[*vpc.NotFoundError](t, err); e.Kind != vpc.KindRule || e.ID != "sgr-00000000" {
		t.Errorf("%+v", e)
	}
	_, err = revoke(vpc.RevokeRequest{Egress: true, RuleIDs: []ids.SecurityGroupRule{made[0].ID}})
	as[*vpc.NotFoundError](t, err) // it is of the other direction
	if in := c.rules(t, g, false); len(in) != 3 {
		t.Errorf("after refused calls: %+v", in)
	}
	described := tcp(22, "10.9.0.0/16")
	described.Description = "does not matter"
	gone := must(revoke(vpc.RevokeRequest{Rules: []vpc.RuleSpec{described}, RuleIDs: []ids.SecurityGroupRule{made[1].ID, made[1].ID}}))(t)
	if len(gone) != 2 || gone[0].ID != made[0].ID || gone[1].ID != made[1].ID {
		t.Errorf("%+v", gone)
	}
	all := g.Rules[0].RuleSpec
	must(revoke(vpc.RevokeRequest{Egress: true, Rules: []vpc.RuleSpec{all}}))(t)
	if left := must(c.DescribeGroups(ctx, a, []ids.SecurityGroup{g.ID}, nil))(t)[0].Rules; len(left) != 1 || left[0].ID != made[2].ID {
		t.Errorf("%+v", left)
	}
}

func TestRuleRefusals(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	g, foreign := c.group(t, v, "g"), c.group(t, c.vpc(t, a, "10.0.0.0/16"), "foreign")
	authorize := func(rules ...vpc.RuleSpec) error {
		_, err := c.Authorize(ctx, vpc.AuthorizeRequest{Account: a, Group: g.ID, Rules: rules})
		return err
	}
	if e := as[*vpc.PermissionError](t, authorize(tcp(1, "10.0.0.1/8"), tcp(1, "10.0.0.2/8"))); e.Problem != vpc.ProblemRepeated {
		t.Errorf("%+v", e)
	}
	if e := as[*vpc.PermissionError](t, authorize(tcp(-5, "0.0.0.0/0"))); e.Problem != vpc.ProblemMalformed {
		t.Errorf("%+v", e)
	}
	if e := as[*vpc.NotFoundError](t, authorize(fromGroup(1, foreign))); e.ID != string(foreign.ID) {
		t.Errorf("%+v", e)
	}
	as[*vpc.NotFoundError](t, authorize(fromGroup(1, vpc.SecurityGroup{ID: "sg-00000000"})))
	as[*vpc.InvalidError](t, authorize())
	var many []vpc.RuleSpec
	for i := range vpc.MaxRulesPerCall + 1 {
		many = append(many, tcp(i, "0.0.0.0/0"))
	}
	if e := as[*vpc.LimitError](t, authorize(many...)); e.Limit != vpc.LimitRulesPerCall {
		t.Errorf("%+v", e)
	}
	if err := authorize(many[:vpc.MaxRulesPerDirection]...); err != nil {
		t.Fatal(err)
	}
	if e := as[*vpc.LimitError](t, authorize(many[60])); e.Limit != vpc.LimitRulesPerGroup || e.ID != string(g.ID) || e.Max != 60 {
		t.Errorf("%+v", e)
	}
	_, err := c.Authorize(ctx, vpc.AuthorizeRequest{Account: a, Group: g.ID, Egress: true, Rules: many[60:61]})
	if err != nil { // the other direction has its own count
		t.Fatal(err)
	}
	_, err = c.Revoke(ctx, vpc.RevokeRequest{Account: a, Group: "sg-00000000", Rules: many[:1]})
	as[*vpc.NotFoundError](t, err)
	_, err = c.Revoke(ctx, vpc.RevokeRequest{Account: a, Group: g.ID, Rules: []vpc.RuleSpec{{}}})
	as[*vpc.PermissionError](t, err)
}

func TestDeleteGroup(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	g, other := c.group(t, v, "g"), c.group(t, v, "other")
	if err := c.DeleteGroup(ctx, a, v.DefaultGroup); !errors.Is(err, vpc.ErrDefaultGroup) {
		t.Errorf("default group: %v", err)
	}
	as[*vpc.NotFoundError](t, c.DeleteGroup(ctx, a, "sg-00000000"))

	rule := vpc.AuthorizeRequest{Account: a, Group: other.ID, Rules: []vpc.RuleSpec{fromGroup(1, g), fromGroup(2, g)}}
	must(c.Authorize(ctx, rule))(t)
	must(c.Authorize(ctx, vpc.AuthorizeRequest{Account: a, Group: g.ID, Rules: []vpc.RuleSpec{fromGroup(1, g), fromGroup(1, other)}}))(t)
	e := as[*vpc.DependencyError](t, c.DeleteGroup(ctx, a, g.ID))
	if len(e.Dependents) != 1 || e.Dependents[0] != (vpc.Dependent{Kind: vpc.KindGroup, ID: string(other.ID)}) {
		t.Errorf("%+v", e)
	}
	must(c.Revoke(ctx, vpc.RevokeRequest{Account: a, Group: other.ID, Rules: rule.Rules}))(t)

	s := c.subnet(t, v, "10.0.0.0/24")
	id, _, _, err := c.launch(ctx, vpc.PrepareRequest{Account: a, Subnet: s.ID, Groups: []ids.SecurityGroup{g.ID, v.DefaultGroup}}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	must(c.DescribeInterfaces(ctx, a, []ids.Interface{id}, nil))(t)
	e = as[*vpc.DependencyError](t, c.DeleteGroup(ctx, a, g.ID))
	if e.Kind != vpc.KindGroup || len(e.Dependents) != 1 || e.Dependents[0] != (vpc.Dependent{Kind: vpc.KindInterface, ID: string(id)}) {
		t.Errorf("%+v", e)
	}
	if err := c.detach(ctx, a, id); err != nil {
		t.Fatal(err)
	}
	as[*vpc.DependencyError](t, c.DeleteGroup(ctx, a, g.ID)) // still releasing
	must(c.ReleaseApplied(ctx, testHost, 1<<40, nil))(t)
	if err := c.DeleteGroup(ctx, a, g.ID); err != nil {
		t.Fatal(err)
	}
	if got := must(c.DescribeGroups(ctx, a, nil, func(x *vpc.SecurityGroup) bool { return x.VPC == v.ID }))(t); len(got) != 2 {
		t.Errorf("%+v", got)
	}
	c.group(t, v, "g") // the name is free again
}

// TestDeleteGroupWithManyIdentities: more identities hold the group than one transaction retires.
func TestDeleteGroupWithManyIdentities(t *testing.T) {
	c := newCloud(t)
	ctx, a := t.Context(), c.account(t, "a")
	v := c.vpc(t, a, "10.0.0.0/16")
	g := c.group(t, v, "g")
	others := make([]ids.SecurityGroup, 14)
	for i := range others {
		others[i] = c.group(t, v, name(i)).ID
	}
	n := uint16(0)
	for i := range others {
		for j := range i {
			identity := must(c.PrepareIdentity(ctx, a, v.ID, []ids.SecurityGroup{others[i], g.ID, others[j], g.ID}))(t)
			if n++; identity.Number != n || len(identity.Groups) != 3 {
				t.Fatalf("%+v", identity)
			}
		}
	}
	if n <= 64 {
		t.Fatalf("only %d identities", n)
	}
	if err := c.DeleteGroup(ctx, a, g.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range others[:2] {
		must(c.PrepareIdentity(ctx, a, v.ID, []ids.SecurityGroup{id}))(t)
	}
	if next := must(c.PrepareIdentity(ctx, a, v.ID, others[:1]))(t); next.Number != n+1 {
		t.Errorf("number %d is used again: %+v", n, next)
	}
}

// TestConcurrentRuleEditsAllStay: 64 editors of one group retry until each rule is in, or the group is full.
func TestConcurrentRuleEditsAllStay(t *testing.T) {
	c := newCloud(t)
	a := c.account(t, "a")
	g := c.group(t, c.vpc(t, a, "10.0.0.0/16"), "g")
	var wait sync.WaitGroup
	var mu sync.Mutex
	var full int
	for i := range 64 {
		wait.Go(func() {
			_, err := c.Authorize(t.Context(), vpc.AuthorizeRequest{Account: a, Group: g.ID, Rules: []vpc.RuleSpec{tcp(i, "0.0.0.0/0")}})
			var limit *vpc.LimitError
			mu.Lock()
			defer mu.Unlock()
			if errors.As(err, &limit) {
				full++
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if in := c.rules(t, g, false); len(in) != vpc.MaxRulesPerDirection || full != 64-vpc.MaxRulesPerDirection {
		t.Errorf("%d rules, %d refused", len(in), full)
	}
}

func TestMessagesNameTheCause(t *testing.T) {
	err := fmt.Errorf("x: %w", &vpc.DependencyError{Kind: vpc.KindVPC, ID: "vpc-1", Dependents: []vpc.Dependent{{ID: "subnet-1"}, {ID: "sg-1"}}})
	if want := `x: the vpc "vpc-1" has dependencies and cannot be deleted: subnet-1, sg-1`; err.Error() != want {
		t.Errorf("%v", err)
	}
}
