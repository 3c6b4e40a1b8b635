package server

import (
	"context"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// groupNames reads the names of the account's groups that match (nil: all).
func (a *api) groupNames(ctx context.Context, match func(*vpc.SecurityGroup) bool) (convert.GroupNames, error) {
	groups, err := a.VPC.DescribeGroups(ctx, caller(ctx), nil, match)
	names := make(convert.GroupNames, len(groups))
	for _, g := range groups {
		names[g.ID] = g.Name
	}
	return names, err
}

// interfaceFilters needs the groups' names.
func interfaceFilters(names convert.GroupNames) filter.Table[*vpc.Interface] {
	address := one(func(i *vpc.Interface) string { return addressOf(i) })
	dns := one(func(i *vpc.Interface) string { return i.PrivateDNSName })
	type item = *vpc.Interface
	return filter.Table[item]{
		Values: map[string]func(item) []string{
			"addresses.private-ip-address": address, "private-ip-address": address, "private-dns-name": dns, "addresses.private-dns-name": dns,
			"addresses.primary":                always[item]("true"),
			"addresses.association.public-ip":  never[item],
			"addresses.association.owner-id":   never[item],
			"association.allocation-id":        never[item],
			"association.association-id":       never[item],
			"association.ip-owner-id":          never[item],
			"association.public-dns-name":      never[item],
			"association.public-ip":            never[item],
			"attachment.attachment-id":         one(func(i item) ids.InterfaceAttachment { return i.Attachment }),
			"attachment.instance-id":           one(func(i item) ids.Instance { return i.Instance }),
			"attachment.instance-owner-id":     one(func(i item) ids.Account { return i.Account }),
			"attachment.device-index":          count(func(i item) int { return i.DeviceIndex }),
			"attachment.delete-on-termination": yes(func(i item) bool { return i.DeleteOnTermination }),
			"attachment.attach-time":           one(func(i item) string { return i.Created.UTC().Format(filterTime) }),
			"attachment.status":                one(func(i item) ec2gen.AttachmentStatus { return convert.AttachmentStatus(i.State) }),
			"availability-zone":                one(func(i item) string { return i.Zone }),
			"description":                      one(func(i item) string { return i.Description }),
			"group-id":                         texts(func(i item) []ids.SecurityGroup { return i.Groups }),
			"group-name":                       texts(func(i item) []string { return names.Of(i.Groups) }),
			"interface-type":                   always[item]("interface"),
			"ipv6-addresses.ipv6-address":      never[item],
			"mac-address":                      one(func(i item) string { return i.MAC.String() }),
			"network-interface-id":             one(func(i item) ids.Interface { return i.ID }),
			"owner-id":                         one(func(i item) ids.Account { return i.Account }),
			"requester-id":                     never[item],
			"requester-managed":                always[item]("false"),
			"source-dest-check":                yes(func(i item) bool { return i.SourceDestCheck }),
			"status":                           one(func(i item) ec2gen.NetworkInterfaceStatus { return convert.InterfaceStatus(i.State) }),
			"subnet-id":                        one(func(i item) ids.Subnet { return i.Subnet }),
			"vpc-id":                           one(func(i item) ids.VPC { return i.VPC }),
		},
		Tags: func(i item) map[string]string { return i.Tags },
	}
}

// filterTime is the layout of times in filters.
const filterTime = "2006-01-02T15:04:05.000Z"

func addressOf(i *vpc.Interface) string {
	if !i.Address.IsValid() {
		return ""
	}
	return i.Address.String()
}

func (a *api) DescribeNetworkInterfaces(ctx context.Context, in *ec2gen.DescribeNetworkInterfacesInput) (*ec2gen.DescribeNetworkInterfacesOutput, error) {
	names, err := a.groupNames(ctx, nil)
	if err != nil {
		return nil, err
	}
	s := selection{
		Filters: in.Filters, IDs: in.NetworkInterfaceIds, IDsName: "networkInterfaceIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual,
	}
	found, next, err := describe(ctx, s, interfaceFilters(names), a.VPC.DescribeInterfaces, func(i vpc.Interface) string { return string(i.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeNetworkInterfacesOutput{NetworkInterfaces: each(found, names.Interface), NextToken: next}, nil
}

var routeTableFilters = filter.Table[*vpc.RouteTable]{
	Values: map[string]func(*vpc.RouteTable) []string{
		"association.main":                       always[*vpc.RouteTable]("true"),
		"association.route-table-association-id": one(func(r *vpc.RouteTable) ids.RouteTableAssociation { return r.Association }),
		"association.route-table-id":             one(func(r *vpc.RouteTable) ids.RouteTable { return r.ID }),
		"association.subnet-id":                  never[*vpc.RouteTable],
		"association.gateway-id":                 never[*vpc.RouteTable],
		"owner-id":                               one(func(r *vpc.RouteTable) ids.Account { return r.Account }),
		"route-table-id":                         one(func(r *vpc.RouteTable) ids.RouteTable { return r.ID }),
		"route.destination-cidr-block":           one(func(r *vpc.RouteTable) string { return r.Local.String() }),
		"route.gateway-id":                       always[*vpc.RouteTable]("local"),
		"route.origin":                           always[*vpc.RouteTable]("CreateRouteTable"),
		"route.state":                            always[*vpc.RouteTable]("active"),
		"route.destination-ipv6-cidr-block":      never[*vpc.RouteTable],
		"route.destination-prefix-list-id":       never[*vpc.RouteTable],
		"route.egress-only-internet-gateway-id":  never[*vpc.RouteTable],
		"route.instance-id":                      never[*vpc.RouteTable],
		"route.nat-gateway-id":                   never[*vpc.RouteTable],
		"route.transit-gateway-id":               never[*vpc.RouteTable],
		"route.vpc-peering-connection-id":        never[*vpc.RouteTable],
		"vpc-id":                                 one(func(r *vpc.RouteTable) ids.VPC { return r.VPC }),
	},
	Tags: func(r *vpc.RouteTable) map[string]string { return r.Tags },
}

func (a *api) DescribeRouteTables(ctx context.Context, in *ec2gen.DescribeRouteTablesInput) (*ec2gen.DescribeRouteTablesOutput, error) {
	s := selection{
		Filters: in.Filters, IDs: in.RouteTableIds, IDsName: "routeTableIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Limits{Min: 5, Max: 100},
	}
	found, next, err := describe(ctx, s, routeTableFilters, a.VPC.DescribeRouteTables, func(r vpc.RouteTable) string { return string(r.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeRouteTablesOutput{RouteTables: each(found, convert.RouteTable), NextToken: next}, nil
}

var aclFilters = filter.Table[*vpc.NetworkACL]{
	Values: map[string]func(*vpc.NetworkACL) []string{
		"association.association-id": func(a *vpc.NetworkACL) []string {
			return each(a.Associations, func(s vpc.ACLAssociation) string { return string(s.ID) })
		},
		"association.network-acl-id": one(func(a *vpc.NetworkACL) ids.NetworkACL { return a.ID }),
		"association.subnet-id": func(a *vpc.NetworkACL) []string {
			return each(a.Associations, func(s vpc.ACLAssociation) string { return string(s.Subnet) })
		},
		"default":               always[*vpc.NetworkACL]("true"),
		"entry.cidr":            always[*vpc.NetworkACL]("0.0.0.0/0"),
		"entry.egress":          func(*vpc.NetworkACL) []string { return []string{"true", "false"} },
		"entry.protocol":        always[*vpc.NetworkACL]("-1"),
		"entry.rule-action":     func(*vpc.NetworkACL) []string { return []string{"allow", "deny"} },
		"entry.rule-number":     func(*vpc.NetworkACL) []string { return []string{"100", "32767"} },
		"entry.icmp.code":       never[*vpc.NetworkACL],
		"entry.icmp.type":       never[*vpc.NetworkACL],
		"entry.ipv6-cidr":       never[*vpc.NetworkACL],
		"entry.port-range.from": never[*vpc.NetworkACL],
		"entry.port-range.to":   never[*vpc.NetworkACL],
		"network-acl-id":        one(func(a *vpc.NetworkACL) ids.NetworkACL { return a.ID }),
		"owner-id":              one(func(a *vpc.NetworkACL) ids.Account { return a.Account }),
		"vpc-id":                one(func(a *vpc.NetworkACL) ids.VPC { return a.VPC }),
	},
	Tags: func(a *vpc.NetworkACL) map[string]string { return a.Tags },
}

func (a *api) DescribeNetworkAcls(ctx context.Context, in *ec2gen.DescribeNetworkAclsInput) (*ec2gen.DescribeNetworkAclsOutput, error) {
	s := selection{Filters: in.Filters, IDs: in.NetworkAclIds, IDsName: "networkAclIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual}
	found, next, err := describe(ctx, s, aclFilters, a.VPC.DescribeNetworkACLs, func(a vpc.NetworkACL) string { return string(a.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeNetworkAclsOutput{NetworkAcls: each(found, convert.NetworkACL), NextToken: next}, nil
}
