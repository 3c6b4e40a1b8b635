package server

import (
	"context"
	"fmt"
	"strings"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

func (a *api) CreateSubnet(ctx context.Context, in *ec2gen.CreateSubnetInput) (*ec2gen.CreateSubnetOutput, error) {
	id, err := requireID[ids.VPC](in.VpcId, "VpcId")
	if err != nil {
		return nil, err
	}
	cidr, err := requireRange(in.CidrBlock, "CidrBlock")
	if err != nil {
		return nil, err
	}
	tags, err := createTags(in.TagSpecifications, ec2gen.ResourceTypeSubnet)
	if err != nil {
		return nil, err
	}
	zones, err := a.zones(ctx)
	if err != nil {
		return nil, err
	}
	zone, err := zones.pick(in.AvailabilityZone, in.AvailabilityZoneId)
	if err != nil {
		return nil, err
	}
	made, err := a.VPC.CreateSubnet(ctx, vpc.CreateSubnetRequest{
		Account: caller(ctx), VPC: id, CIDR: cidr, Zone: zone, Tags: tags, DryRun: dryRun(ctx) != nil,
	})
	if err != nil || dryRun(ctx) != nil {
		return nil, orDryRun(err)
	}
	if found, err := a.VPC.DescribeSubnets(ctx, caller(ctx), []ids.Subnet{made.ID}, nil); err == nil && len(found) == 1 {
		made = found[0] // with its count of free addresses; the subnet exists, so a failure to count is no failure
	}
	return &ec2gen.CreateSubnetOutput{Subnet: new(zones.ids.Subnet(made, a.Region))}, nil
}

func (a *api) DeleteSubnet(ctx context.Context, in *ec2gen.DeleteSubnetInput) (*ec2gen.DeleteSubnetOutput, error) {
	id, err := requireID[ids.Subnet](in.SubnetId, "SubnetId")
	if err != nil {
		return nil, err
	}
	if err := dryRun(ctx); err != nil {
		if _, missing := a.oneSubnet(ctx, id); missing != nil {
			return nil, missing
		}
		return nil, err
	}
	return nil, a.VPC.DeleteSubnet(ctx, caller(ctx), id)
}

func (a *api) oneSubnet(ctx context.Context, id ids.Subnet) (vpc.Subnet, error) {
	found, err := a.VPC.DescribeSubnets(ctx, caller(ctx), []ids.Subnet{id}, nil)
	if err != nil || len(found) == 0 {
		return vpc.Subnet{}, orNotFound(err, id)
	}
	return found[0], nil
}

// subnetFilters needs the zones' ids and the region, which only the server knows.
func (a *api) subnetFilters(zones convert.ZoneIDs) filter.Table[*vpc.Subnet] {
	cidr := one(func(s *vpc.Subnet) string { return s.CIDR.String() })
	zone := one(func(s *vpc.Subnet) string { return s.Zone })
	zoneID := one(func(s *vpc.Subnet) string { return zones[s.Zone] })
	isDefault := yes(func(s *vpc.Subnet) bool { return s.Default })
	return filter.Table[*vpc.Subnet]{
		Values: map[string]func(*vpc.Subnet) []string{
			"availability-zone": zone, "availabilityZone": zone, "availability-zone-id": zoneID, "availabilityZoneId": zoneID,
			"available-ip-address-count": count(func(s *vpc.Subnet) int { return s.AvailableAddresses }),
			"cidr":                       cidr, "cidr-block": cidr, "cidrBlock": cidr,
			"default-for-az": isDefault, "defaultForAz": isDefault,
			"map-public-ip-on-launch":         yes(func(s *vpc.Subnet) bool { return s.MapPublicIPOnLaunch }),
			"map-customer-owned-ip-on-launch": always[*vpc.Subnet]("false"),
			"customer-owned-ipv4-pool":        never[*vpc.Subnet],
			"enable-dns64":                    always[*vpc.Subnet]("false"),
			"ipv6-native":                     always[*vpc.Subnet]("false"),
			"outpost-arn":                     never[*vpc.Subnet],
			"owner-id":                        one(func(s *vpc.Subnet) ids.Account { return s.Account }),
			"state":                           always[*vpc.Subnet]("available"),
			"subnet-arn":                      one(func(s *vpc.Subnet) string { return deref(zones.Subnet(*s, a.Region).SubnetArn) }),
			"subnet-id":                       one(func(s *vpc.Subnet) ids.Subnet { return s.ID }),
			"vpc-id":                          one(func(s *vpc.Subnet) ids.VPC { return s.VPC }),
			"assign-ipv6-address-on-creation": always[*vpc.Subnet]("false"),
			"private-dns-name-options-on-launch.hostname-type": always[*vpc.Subnet]("ip-name"),
			"ipv6-cidr-block-association.ipv6-cidr-block":      never[*vpc.Subnet],
			"ipv6-cidr-block-association.association-id":       never[*vpc.Subnet],
			"ipv6-cidr-block-association.state":                never[*vpc.Subnet],
		},
		Tags: func(s *vpc.Subnet) map[string]string { return s.Tags },
	}
}

func (a *api) DescribeSubnets(ctx context.Context, in *ec2gen.DescribeSubnetsInput) (*ec2gen.DescribeSubnetsOutput, error) {
	zones, err := a.zones(ctx)
	if err != nil {
		return nil, err
	}
	s := selection{Filters: in.Filters, IDs: in.SubnetIds, IDsName: "subnetIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual}
	found, next, err := describe(ctx, s, a.subnetFilters(zones.ids), a.VPC.DescribeSubnets, func(s vpc.Subnet) string { return string(s.ID) })
	if err != nil {
		return nil, err
	}
	convertOne := func(s vpc.Subnet) ec2gen.Subnet { return zones.ids.Subnet(s, a.Region) }
	return &ec2gen.DescribeSubnetsOutput{Subnets: each(found, convertOne), NextToken: next}, nil
}

func (a *api) ModifySubnetAttribute(ctx context.Context, in *ec2gen.ModifySubnetAttributeInput) (*ec2gen.ModifySubnetAttributeOutput, error) {
	id, err := requireID[ids.Subnet](in.SubnetId, "SubnetId")
	if err != nil {
		return nil, err
	}
	byName := (*ec2gen.AttributeBooleanValue)(nil)
	if in.PrivateDnsHostnameTypeOnLaunch != nil {
		byName = &ec2gen.AttributeBooleanValue{}
	}
	if err := oneAttribute(
		in.MapPublicIpOnLaunch, in.AssignIpv6AddressOnCreation, in.EnableDns64, in.EnableResourceNameDnsARecordOnLaunch,
		in.EnableResourceNameDnsAAAARecordOnLaunch, in.MapCustomerOwnedIpOnLaunch, in.DisableLniAtDeviceIndex, byName,
	); err != nil {
		return nil, err
	}
	return nil, a.VPC.ModifySubnet(ctx, caller(ctx), id, vpc.SubnetChange{MapPublicIPOnLaunch: attribute(in.MapPublicIpOnLaunch)})
}

// zoneSet is the zones by name and id.
type zoneSet struct {
	ids convert.ZoneIDs
}

func (a *api) zones(ctx context.Context) (zoneSet, error) {
	list, err := a.Compute.Zones(ctx)
	set := zoneSet{ids: make(convert.ZoneIDs, len(list))}
	for _, z := range list {
		set.ids[z.Name] = z.ID
	}
	return set, err
}

// pick chooses a zone by name or by id; empty when neither is given. A name that no host reports is its owner's to refuse:
// an id can only be looked up here.
func (z zoneSet) pick(name, id *string) (string, error) {
	if deref(id) == "" {
		return deref(name), nil
	}
	if deref(name) != "" {
		return "", errs.New(errs.InvalidParameterCombination, "The parameters AvailabilityZone and AvailabilityZoneId cannot be used together")
	}
	var known []string
	for zone, zoneID := range z.ids {
		if zoneID == *id {
			return zone, nil
		}
		known = append(known, zoneID)
	}
	return "", errs.Invalid("AvailabilityZoneId", *id, fmt.Sprintf("The zones are: %s.", strings.Join(known, ", ")))
}
