package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

func (a *api) CreateSecurityGroup(ctx context.Context, in *ec2gen.CreateSecurityGroupInput) (*ec2gen.CreateSecurityGroupOutput, error) {
	switch {
	case deref(in.GroupName) == "":
		return nil, errs.Missing("GroupName")
	case deref(in.Description) == "":
		return nil, errs.Missing("GroupDescription")
	}
	network, err := optionalID[ids.VPC](in.VpcId)
	if err != nil {
		return nil, err
	}
	tags, err := createTags(in.TagSpecifications, ec2gen.ResourceTypeSecurityGroup)
	if err != nil {
		return nil, err
	}
	made, err := a.VPC.CreateGroup(ctx, vpc.CreateGroupRequest{
		Account: caller(ctx), VPC: network, Name: *in.GroupName, Description: *in.Description, Tags: tags, DryRun: dryRun(ctx) != nil,
	})
	if err != nil || dryRun(ctx) != nil {
		return nil, orDryRun(err)
	}
	return &ec2gen.CreateSecurityGroupOutput{GroupId: new(string(made.ID)), Tags: convert.Tags(tags)}, nil
}

func (a *api) DeleteSecurityGroup(ctx context.Context, in *ec2gen.DeleteSecurityGroupInput) (*ec2gen.DeleteSecurityGroupOutput, error) {
	g, err := a.namedGroup(ctx, in.GroupId, in.GroupName)
	if err != nil {
		return nil, err
	}
	if err := dryRun(ctx); err != nil {
		return nil, err
	}
	return nil, a.VPC.DeleteGroup(ctx, caller(ctx), g.ID)
}

// namedGroup finds the group that a request names by id or, in the default VPC, by name.
func (a *api) namedGroup(ctx context.Context, id, name *string) (vpc.SecurityGroup, error) {
	if deref(id) != "" && deref(name) != "" {
		return vpc.SecurityGroup{}, errs.New(errs.InvalidParameterCombination, "The parameters GroupId and GroupName cannot be used together")
	}
	if deref(id) != "" {
		parsed, err := errs.ParseID[ids.SecurityGroup](*id)
		if err != nil {
			return vpc.SecurityGroup{}, err
		}
		return a.oneGroup(ctx, parsed)
	}
	if deref(name) == "" {
		return vpc.SecurityGroup{}, errs.New(errs.MissingParameter, "The request must contain the parameter groupName or groupId")
	}
	network, err := a.defaultVPC(ctx)
	if err != nil {
		return vpc.SecurityGroup{}, err
	}
	return a.groupByName(ctx, network, *name)
}

func (a *api) oneGroup(ctx context.Context, id ids.SecurityGroup) (vpc.SecurityGroup, error) {
	found, err := a.VPC.DescribeGroups(ctx, caller(ctx), []ids.SecurityGroup{id}, nil)
	if err != nil || len(found) == 0 {
		return vpc.SecurityGroup{}, orNotFound(err, id)
	}
	return found[0], nil
}

func (a *api) groupByName(ctx context.Context, network ids.VPC, name string) (vpc.SecurityGroup, error) {
	found, err := a.VPC.DescribeGroups(ctx, caller(ctx), nil, func(g *vpc.SecurityGroup) bool { return g.VPC == network && g.Name == name })
	if err == nil && len(found) == 0 {
		err = &vpc.NotFoundError{Kind: vpc.KindGroupName, ID: name}
	}
	if err != nil {
		return vpc.SecurityGroup{}, err
	}
	return found[0], nil
}

// defaultVPC finds the account's default VPC without making one.
func (a *api) defaultVPC(ctx context.Context) (ids.VPC, error) {
	found, err := a.VPC.DescribeVPCs(ctx, caller(ctx), nil, func(v *vpc.VPC) bool { return v.Default })
	if err == nil && len(found) == 0 {
		err = vpc.ErrNoDefaultVPC
	}
	if err != nil {
		return "", err
	}
	return found[0].ID, nil
}

var groupFilters = makeGroupFilters()

func makeGroupFilters() filter.Table[*vpc.SecurityGroup] {
	type item = *vpc.SecurityGroup
	values := map[string]func(item) []string{
		"description": one(func(g item) string { return g.Description }),
		"group-id":    one(func(g item) ids.SecurityGroup { return g.ID }),
		"group-name":  one(func(g item) string { return g.Name }),
		"owner-id":    one(func(g item) ids.Account { return g.Account }),
		"vpc-id":      one(func(g item) ids.VPC { return g.VPC }),
	}
	for prefix, egress := range map[string]bool{"ip-permission.": false, "egress.ip-permission.": true} {
		for name, get := range ruleFilterValues {
			values[prefix+name] = func(g item) []string { return ofRules(g, egress, get) }
		}
	}
	return filter.Table[item]{Values: values, Tags: func(g item) map[string]string { return g.Tags }}
}

// ruleFilterValues are the properties of a group's rules that groups are filtered by.
var ruleFilterValues = map[string]func(*vpc.Rule) []string{
	"cidr": one(func(r *vpc.Rule) string {
		if r.CIDR.IsValid() {
			return r.CIDR.String()
		}
		return ""
	}),
	"from-port":      count(func(r *vpc.Rule) int { return r.FromPort }),
	"to-port":        count(func(r *vpc.Rule) int { return r.ToPort }),
	"protocol":       one(func(r *vpc.Rule) string { return r.Protocol.String() }),
	"group-id":       one(func(r *vpc.Rule) ids.SecurityGroup { return r.Peer }),
	"group-name":     never[*vpc.Rule],
	"ipv6-cidr":      never[*vpc.Rule],
	"prefix-list-id": never[*vpc.Rule],
	"user-id": one(func(r *vpc.Rule) ids.Account {
		if r.Peer == "" {
			return ""
		}
		return r.Account
	}),
}

func ofRules(g *vpc.SecurityGroup, egress bool, get func(*vpc.Rule) []string) []string {
	var all []string
	for i := range g.Rules {
		if g.Rules[i].Egress == egress {
			all = append(all, get(&g.Rules[i])...)
		}
	}
	return all
}

func (a *api) DescribeSecurityGroups(ctx context.Context, in *ec2gen.DescribeSecurityGroupsInput) (*ec2gen.DescribeSecurityGroupsOutput, error) {
	s := selection{
		Filters: in.Filters, IDs: in.GroupIds, IDsName: "groupIds", Flags: in.GroupNames, MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual,
	}
	if len(in.GroupNames) > 0 {
		named, err := a.idsOfNames(ctx, in.GroupNames)
		if err != nil {
			return nil, err
		}
		s.IDs = append(slices.Clone(s.IDs), named...)
	}
	found, next, err := describe(ctx, s, groupFilters, a.VPC.DescribeGroups, func(g vpc.SecurityGroup) string { return string(g.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeSecurityGroupsOutput{SecurityGroups: each(found, convert.Group), NextToken: next}, nil
}

// idsOfNames looks groups of the default VPC up.
func (a *api) idsOfNames(ctx context.Context, names []string) ([]string, error) {
	network, err := a.defaultVPC(ctx)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, name := range names {
		g, err := a.groupByName(ctx, network, name)
		if err != nil {
			return nil, err
		}
		list = append(list, string(g.ID))
	}
	return list, nil
}

var ruleFilters = filter.Table[*vpc.Rule]{
	Values: map[string]func(*vpc.Rule) []string{
		"group-id":               one(func(r *vpc.Rule) ids.SecurityGroup { return r.Group }),
		"security-group-rule-id": one(func(r *vpc.Rule) ids.SecurityGroupRule { return r.ID }),
	},
	Tags: func(r *vpc.Rule) map[string]string { return r.Tags },
}

func (a *api) DescribeSecurityGroupRules(ctx context.Context, in *ec2gen.DescribeSecurityGroupRulesInput) (*ec2gen.DescribeSecurityGroupRulesOutput, error) {
	s := selection{
		Filters: in.Filters, IDs: in.SecurityGroupRuleIds, IDsName: "securityGroupRuleIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual,
	}
	found, next, err := describe(ctx, s, ruleFilters, a.VPC.DescribeRules, func(r vpc.Rule) string { return string(r.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeSecurityGroupRulesOutput{SecurityGroupRules: each(found, convert.Rule), NextToken: next}, nil
}

// at names a parameter of the n-th permission, counted from 0, as the client sent it.
func at(n int, rest string) string { return fmt.Sprintf("IpPermissions.%d.%s", n+1, rest) }
