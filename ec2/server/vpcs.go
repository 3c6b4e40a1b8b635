package server

import (
	"context"
	"net/netip"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// requireRange reads an IPv4 range that must be there.
func requireRange(text *string, parameter string) (netip.Prefix, error) {
	if text == nil || *text == "" {
		return netip.Prefix{}, errs.Missing(parameter)
	}
	prefix, err := netip.ParsePrefix(*text)
	if err != nil || !prefix.Addr().Is4() {
		return netip.Prefix{}, errs.Invalid(parameter, *text, "This is not a valid IPv4 CIDR block.")
	}
	return prefix, nil
}

func (a *api) CreateVpc(ctx context.Context, in *ec2gen.CreateVpcInput) (*ec2gen.CreateVpcOutput, error) {
	cidr, err := requireRange(in.CidrBlock, "CidrBlock")
	if err != nil {
		return nil, err
	}
	tags, err := createTags(in.TagSpecifications, ec2gen.ResourceTypeVpc)
	if err != nil {
		return nil, err
	}
	made, err := a.VPC.CreateVPC(ctx, vpc.CreateVPCRequest{Account: caller(ctx), CIDR: cidr, Tags: tags, DryRun: dryRun(ctx) != nil})
	if err != nil || dryRun(ctx) != nil {
		return nil, orDryRun(err)
	}
	return &ec2gen.CreateVpcOutput{Vpc: new(convert.VPC(made))}, nil
}

func (a *api) DeleteVpc(ctx context.Context, in *ec2gen.DeleteVpcInput) (*ec2gen.DeleteVpcOutput, error) {
	id, err := requireID[ids.VPC](in.VpcId, "VpcId")
	if err != nil {
		return nil, err
	}
	if err := a.vpcDryRun(ctx, id); err != nil {
		return nil, err
	}
	return nil, a.VPC.DeleteVPC(ctx, caller(ctx), id)
}

// vpcDryRun ends a dry run on a VPC: its existence is part of what is checked.
func (a *api) vpcDryRun(ctx context.Context, id ids.VPC) error {
	if dryRun(ctx) == nil {
		return nil
	}
	if _, err := a.oneVPC(ctx, id); err != nil {
		return err
	}
	return errs.DryRun
}

func (a *api) oneVPC(ctx context.Context, id ids.VPC) (vpc.VPC, error) {
	found, err := a.VPC.DescribeVPCs(ctx, caller(ctx), []ids.VPC{id}, nil)
	if err != nil || len(found) == 0 {
		return vpc.VPC{}, orNotFound(err, id)
	}
	return found[0], nil
}

// orNotFound is err, or that id does not exist.
func orNotFound[T ids.ID](err error, id T) error {
	if err != nil {
		return err
	}
	return errs.NotFound(id)
}

var vpcFilters = filter.Table[*vpc.VPC]{
	Values: map[string]func(*vpc.VPC) []string{
		"vpc-id":                                one(func(v *vpc.VPC) ids.VPC { return v.ID }),
		"owner-id":                              one(func(v *vpc.VPC) ids.Account { return v.Account }),
		"cidr":                                  one(func(v *vpc.VPC) string { return v.CIDR.String() }),
		"cidr-block":                            one(func(v *vpc.VPC) string { return v.CIDR.String() }),
		"cidr-block-association.cidr-block":     one(func(v *vpc.VPC) string { return v.CIDR.String() }),
		"cidr-block-association.association-id": one(func(v *vpc.VPC) ids.VPCCIDR { return v.CIDRID }),
		"cidr-block-association.state":          always[*vpc.VPC]("associated"),
		"dhcp-options-id":                       one(func(v *vpc.VPC) ids.DHCPOptions { return v.DHCPOptions }),
		"is-default":                            yes(func(v *vpc.VPC) bool { return v.Default }),
		"isDefault":                             yes(func(v *vpc.VPC) bool { return v.Default }),
		"state":                                 always[*vpc.VPC]("available"),
		"ipv6-cidr-block-association.ipv6-cidr-block": never[*vpc.VPC],
		"ipv6-cidr-block-association.ipv6-pool":       never[*vpc.VPC],
		"ipv6-cidr-block-association.association-id":  never[*vpc.VPC],
		"ipv6-cidr-block-association.state":           never[*vpc.VPC],
	},
	Tags: func(v *vpc.VPC) map[string]string { return v.Tags },
}

func (a *api) DescribeVpcs(ctx context.Context, in *ec2gen.DescribeVpcsInput) (*ec2gen.DescribeVpcsOutput, error) {
	s := selection{Filters: in.Filters, IDs: in.VpcIds, IDsName: "vpcIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual}
	found, next, err := describe(ctx, s, vpcFilters, a.VPC.DescribeVPCs, func(v vpc.VPC) string { return string(v.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeVpcsOutput{Vpcs: each(found, convert.VPC), NextToken: next}, nil
}

func (a *api) DescribeVpcAttribute(ctx context.Context, in *ec2gen.DescribeVpcAttributeInput) (*ec2gen.DescribeVpcAttributeOutput, error) {
	if in.Attribute == nil {
		return nil, errs.Missing("Attribute")
	}
	id, err := requireID[ids.VPC](in.VpcId, "VpcId")
	if err != nil {
		return nil, err
	}
	v, err := a.oneVPC(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &ec2gen.DescribeVpcAttributeOutput{VpcId: new(string(id))}
	switch *in.Attribute {
	case ec2gen.VpcAttributeNameEnableDnsSupport:
		out.EnableDnsSupport = &ec2gen.AttributeBooleanValue{Value: new(v.DNSSupport)}
	case ec2gen.VpcAttributeNameEnableDnsHostnames:
		out.EnableDnsHostnames = &ec2gen.AttributeBooleanValue{Value: new(v.DNSHostnames)}
	default:
		out.EnableNetworkAddressUsageMetrics = &ec2gen.AttributeBooleanValue{Value: new(false)}
	}
	return out, nil
}

func (a *api) ModifyVpcAttribute(ctx context.Context, in *ec2gen.ModifyVpcAttributeInput) (*ec2gen.ModifyVpcAttributeOutput, error) {
	id, err := requireID[ids.VPC](in.VpcId, "VpcId")
	if err != nil {
		return nil, err
	}
	if err := oneAttribute(in.EnableDnsSupport, in.EnableDnsHostnames, in.EnableNetworkAddressUsageMetrics); err != nil {
		return nil, err
	}
	change := vpc.VPCChange{DNSSupport: attribute(in.EnableDnsSupport), DNSHostnames: attribute(in.EnableDnsHostnames)}
	return nil, a.VPC.ModifyVPC(ctx, caller(ctx), id, change)
}

// oneAttribute holds a call to EC2's rule that it changes one attribute.
func oneAttribute(attributes ...*ec2gen.AttributeBooleanValue) error {
	given := 0
	for _, v := range attributes {
		if v != nil {
			given++
		}
	}
	switch given {
	case 0:
		return errs.New(errs.InvalidParameterCombination, "No attributes specified.")
	case 1:
		return nil
	}
	return errs.New(errs.InvalidParameterCombination, "Only one attribute can be modified at a time; the request has %d", given)
}
