package server

import (
	"cmp"
	"context"
	"slices"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// DescribeInterfaces returns interfaces. See vpc.Service.
func (s *Service) DescribeInterfaces(ctx context.Context, a ids.Account, want []ids.Interface, match func(*vpc.Interface) bool) ([]vpc.Interface, error) {
	q := query[ids.Interface, vpcrows.Interface, vpc.Interface]{
		kind:  vpc.KindInterface,
		table: func(v *view) owned[ids.Interface, vpcrows.Interface] { return v.interfaces },
		show:  s.showInterface,
		id:    func(v *vpc.Interface) ids.Interface { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

func (s *Service) showInterface(_ *view, r vpcrows.Interface) vpc.Interface {
	out := s.untagged(r)
	out.Tags = s.tags.Tags(out.Account, string(out.ID))
	return out
}

func (s *Service) untagged(r vpcrows.Interface) vpc.Interface {
	out := r.Interface
	out.Groups = slices.Clone(out.Groups)
	out.PrivateDNSName = host.PrivateDNSName(out.Address, s.region)
	return out
}

// Attached returns interfaces with the names of groups. See vpc.Service.
func (s *Service) Attached(ctx context.Context, a ids.Account, want []ids.Interface, groups []ids.SecurityGroup) (map[ids.Interface]*vpc.Interface, map[ids.SecurityGroup]string, error) {
	if err := s.wait(ctx); err != nil {
		return nil, nil, err
	}
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	found, names := make(map[ids.Interface]*vpc.Interface, len(want)), map[ids.SecurityGroup]string{}
	name := func(list []ids.SecurityGroup) {
		for _, id := range list {
			if g, exists := s.view.groups[a][id]; exists {
				names[id] = g.Name
			}
		}
	}
	name(groups)
	for _, id := range want {
		if r, exists := s.view.interfaces[a][id]; exists {
			name(r.Groups)
			found[id] = new(s.untagged(r))
		}
	}
	return found, names, nil
}

// DescribeRouteTables returns route tables. See vpc.Service.
func (s *Service) DescribeRouteTables(ctx context.Context, a ids.Account, want []ids.RouteTable, match func(*vpc.RouteTable) bool) ([]vpc.RouteTable, error) {
	q := query[ids.RouteTable, ids.VPC, vpc.RouteTable]{
		kind:  vpc.KindRouteTable,
		table: func(v *view) owned[ids.RouteTable, ids.VPC] { return v.routeTables },
		show: func(v *view, id ids.VPC) vpc.RouteTable {
			of := v.vpcs[a][id]
			return vpc.RouteTable{
				ID: of.MainRouteTable, Account: a, VPC: id, Association: of.MainAssociation, Local: of.CIDR,
				Tags: s.tags.Tags(a, string(of.MainRouteTable)),
			}
		},
		id: func(v *vpc.RouteTable) ids.RouteTable { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

// DescribeNetworkACLs returns network ACLs. See vpc.Service.
func (s *Service) DescribeNetworkACLs(ctx context.Context, a ids.Account, want []ids.NetworkACL, match func(*vpc.NetworkACL) bool) ([]vpc.NetworkACL, error) {
	q := query[ids.NetworkACL, ids.VPC, vpc.NetworkACL]{
		kind:  vpc.KindNetworkACL,
		table: func(v *view) owned[ids.NetworkACL, ids.VPC] { return v.acls },
		show: func(v *view, id ids.VPC) vpc.NetworkACL {
			acl := v.vpcs[a][id].DefaultACL
			return vpc.NetworkACL{ID: acl, Account: a, VPC: id, Associations: associations(v, id), Tags: s.tags.Tags(a, string(acl))}
		},
		id: func(v *vpc.NetworkACL) ids.NetworkACL { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

func associations(v *view, id ids.VPC) []vpc.ACLAssociation {
	var out []vpc.ACLAssociation
	for _, s := range v.subnetsOf[id] {
		out = append(out, vpc.ACLAssociation{ID: s.ACLAssociation, Subnet: s.ID})
	}
	slices.SortFunc(out, func(x, y vpc.ACLAssociation) int { return cmp.Compare(x.Subnet, y.Subnet) })
	return out
}

// DescribeDHCPOptions returns DHCP options. See vpc.Service.
func (s *Service) DescribeDHCPOptions(ctx context.Context, a ids.Account, want []ids.DHCPOptions, match func(*vpc.DHCPOptions) bool) ([]vpc.DHCPOptions, error) {
	q := query[ids.DHCPOptions, vpc.DHCPOptions, vpc.DHCPOptions]{
		kind:  vpc.KindDHCPOptions,
		table: func(v *view) owned[ids.DHCPOptions, vpc.DHCPOptions] { return v.dhcp },
		show: func(_ *view, o vpc.DHCPOptions) vpc.DHCPOptions {
			o.Tags = s.tags.Tags(a, string(o.ID))
			return o
		},
		id: func(v *vpc.DHCPOptions) ids.DHCPOptions { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}
