package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// TestRandomOperations: whatever is asked for in whatever order, answers are typed and the invariants hold.
func TestRandomOperations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{cloud: newCloud(t), hosts: []ids.Host{testHost, "h-fedcba98765432100"}}
		m.account = m.cloud.account(t, "a")
		if err := m.accounts.SetQuota(context.Background(), m.account, account.QuotaInterfaces, 12); err != nil {
			t.Fatal(err)
		}
		if err := m.accounts.SetQuota(context.Background(), m.account, account.QuotaVPCs, 4); err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"createVPC":    m.createVPC,
			"createSubnet": m.createSubnet,
			"createGroup":  m.createGroup,
			"authorize":    m.authorize,
			"revoke":       m.revoke,
			"launch":       m.launch,
			"move":         m.move,
			"detach":       m.detach,
			"release":      m.release,
			"tag":          m.tag,
			"delete":       m.delete,
			"quota":        m.quota,
			"":             func(t *rapid.T) { m.check(t) },
		})
	})
}

// machine remembers every id that was ever made, deleted ones too.
type machine struct {
	*cloud
	account    ids.Account
	hosts      []ids.Host
	vpcs       []ids.VPC
	subnets    []ids.Subnet
	groups     []ids.SecurityGroup
	rules      []ids.SecurityGroupRule
	interfaces []ids.Interface
}

// expect accepts the errors that a caller can do something about, and nothing else.
func (m *machine) expect(t *rapid.T, err error) bool {
	var (
		notFound   *vpc.NotFoundError
		conflict   *vpc.ConflictError
		ranges     *vpc.RangeError
		dependency *vpc.DependencyError
		duplicate  *vpc.GroupDuplicateError
		permission *vpc.PermissionError
		limit      *vpc.LimitError
		noAddress  *vpc.NoAddressError
		inUse      *vpc.AddressInUseError
		address    *vpc.AddressError
		quota      *account.QuotaError
		noResource *account.NotFoundError
	)
	for _, target := range []any{
		&notFound, &conflict, &ranges, &dependency, &duplicate, &permission, &limit, &noAddress, &inUse, &address, &quota, &noResource,
	} {
		if errors.As(err, target) {
			return false
		}
	}
	if err != nil && !errors.Is(err, vpc.ErrDefaultGroup) && !errors.Is(err, vpc.ErrStale) {
		t.Fatalf("unexpected: %v", err)
	}
	return err == nil
}

// pick draws one of the ids, or skips the step.
func pick[T any](t *rapid.T, from []T, label string) T {
	if len(from) == 0 {
		t.Skip("there is no " + label)
	}
	return rapid.SampledFrom(from).Draw(t, label)
}

func (m *machine) createVPC(t *rapid.T) {
	cidr := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/16", "10.0.0.0/24", "10.1.0.0/20"}).Draw(t, "range"))
	v, err := m.CreateVPC(context.Background(), vpc.CreateVPCRequest{Account: m.account, CIDR: cidr, Tags: map[string]string{"a": "b"}})
	if m.expect(t, err) {
		m.vpcs, m.groups = append(m.vpcs, v.ID), append(m.groups, v.DefaultGroup)
	}
}

func (m *machine) createSubnet(t *rapid.T) {
	cidr := fmt.Sprintf("10.%d.0.%d/%d", rapid.IntRange(0, 1).Draw(t, "net"), 16*rapid.IntRange(0, 3).Draw(t, "part"), rapid.IntRange(27, 28).Draw(t, "bits"))
	r := vpc.CreateSubnetRequest{Account: m.account, VPC: pick(t, m.vpcs, "VPC"), CIDR: netip.MustParsePrefix(cidr)}
	s, err := m.CreateSubnet(context.Background(), r)
	if m.expect(t, err) {
		m.subnets = append(m.subnets, s.ID)
	}
}

func (m *machine) createGroup(t *rapid.T) {
	name := name(rapid.IntRange(0, 3).Draw(t, "name"))
	r := vpc.CreateGroupRequest{Account: m.account, VPC: pick(t, m.vpcs, "VPC"), Name: name, Description: name}
	g, err := m.CreateGroup(context.Background(), r)
	if m.expect(t, err) {
		m.groups = append(m.groups, g.ID)
	}
}

func (m *machine) specs(t *rapid.T) []vpc.RuleSpec {
	out := make([]vpc.RuleSpec, rapid.IntRange(1, 3).Draw(t, "rules"))
	for i := range out {
		if port := rapid.IntRange(1, 3).Draw(t, "port"); rapid.Bool().Draw(t, "peer") {
			out[i] = vpc.RuleSpec{Protocol: vpc.TCP, FromPort: port, ToPort: port, Peer: pick(t, m.groups, "group")}
		} else {
			out[i] = tcp(port, "10.0.0.0/8")
		}
	}
	return out
}

func (m *machine) authorize(t *rapid.T) {
	r := vpc.AuthorizeRequest{Account: m.account, Group: pick(t, m.groups, "group"), Egress: rapid.Bool().Draw(t, "egress"), Rules: m.specs(t)}
	r.Tags = map[string]string{"a": "b"}
	rules, err := m.Authorize(context.Background(), r)
	if m.expect(t, err) {
		for _, rule := range rules {
			m.rules = append(m.rules, rule.ID)
		}
	}
}

func (m *machine) revoke(t *rapid.T) {
	r := vpc.RevokeRequest{Account: m.account, Group: pick(t, m.groups, "group"), Egress: rapid.Bool().Draw(t, "egress")}
	if rapid.Bool().Draw(t, "by id") {
		r.RuleIDs = []ids.SecurityGroupRule{pick(t, m.rules, "rule")}
	} else {
		r.Rules = m.specs(t)
	}
	_, err := m.Revoke(context.Background(), r)
	m.expect(t, err)
}

func (m *machine) launch(t *rapid.T) {
	r := vpc.PrepareRequest{Account: m.account, Subnet: pick(t, m.subnets, "subnet"), Retry: rapid.Bool().Draw(t, "retry")}
	for range rapid.IntRange(0, 2).Draw(t, "groups") {
		r.Groups = append(r.Groups, pick(t, m.groups, "group"))
	}
	p, err := m.Prepare(context.Background(), r)
	if !m.expect(t, err) {
		return
	}
	var address netip.Addr
	if rapid.Bool().Draw(t, "exact") {
		address = vpcrows.AddressAt(p.Subnet.CIDR, uint64(rapid.IntRange(0, 17).Draw(t, "offset")))
	}
	id, _, _, err := m.attach(context.Background(), p, address, pick(t, m.hosts, "host"))
	if m.expect(t, err) {
		m.interfaces = append(m.interfaces, id)
	}
}

func (m *machine) move(t *rapid.T) {
	id, to := pick(t, m.interfaces, "interface"), pick(t, m.hosts, "host")
	_, err := m.db.Transact(context.Background(), func(tx *store.Tx) error {
		label := tx.FirstOf([]store.Alternative{{Label: []byte(to), Guards: func(*store.Tx) {}}})
		return vpcrows.Move(context.Background(), tx, m.account, id, label)
	})
	m.expect(t, err)
}

func (m *machine) detach(t *rapid.T) {
	m.expect(t, m.cloud.detach(context.Background(), m.account, pick(t, m.interfaces, "interface")))
}

func (m *machine) release(t *rapid.T) {
	_, err := m.ReleaseApplied(context.Background(), pick(t, m.hosts, "host"), math.MaxUint64, nil)
	m.expect(t, err)
}

func (m *machine) resource(t *rapid.T) string {
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		return string(pick(t, m.vpcs, "VPC"))
	case 1:
		return string(pick(t, m.subnets, "subnet"))
	case 2:
		return string(pick(t, m.groups, "group"))
	case 3:
		return string(pick(t, m.rules, "rule"))
	}
	return string(pick(t, m.interfaces, "interface"))
}

func (m *machine) tag(t *rapid.T) {
	resources := []string{m.resource(t), m.resource(t)}
	m.expect(t, m.accounts.Tags().CreateTags(context.Background(), m.account, resources, map[string]string{"x": "y"}))
}

func (m *machine) delete(t *rapid.T) {
	ctx := context.Background()
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		m.expect(t, m.DeleteVPC(ctx, m.account, pick(t, m.vpcs, "VPC")))
	case 1:
		m.expect(t, m.DeleteSubnet(ctx, m.account, pick(t, m.subnets, "subnet")))
	case 2:
		m.expect(t, m.DeleteGroup(ctx, m.account, pick(t, m.groups, "group")))
	}
}

func (m *machine) quota(t *rapid.T) {
	n := int64(rapid.IntRange(0, 20).Draw(t, "limit"))
	m.expect(t, m.accounts.SetQuota(context.Background(), m.account, account.QuotaInterfaces, n))
}
