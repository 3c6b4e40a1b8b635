package server

import (
	"context"
	"net/netip"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// ruleRequest is what the four actions on rules have in common.
type ruleRequest struct {
	groupID, groupName    *string
	permissions           []ec2gen.IpPermission
	protocol, cidr        *string // the older form of one permission, beside permissions
	from, to              *int32
	sourceName, sourceUID *string
}

// older returns the one permission of the older form; false when there is none.
func (r ruleRequest) older() (ec2gen.IpPermission, bool) {
	p := ec2gen.IpPermission{IpProtocol: r.protocol, FromPort: r.from, ToPort: r.to}
	if r.cidr != nil {
		p.IpRanges = []ec2gen.IpRange{{CidrIp: r.cidr}}
	}
	if r.sourceName != nil {
		p.UserIdGroupPairs = []ec2gen.UserIdGroupPair{{GroupName: r.sourceName, UserId: r.sourceUID}}
	}
	return p, r.protocol != nil || r.cidr != nil || r.sourceName != nil || r.from != nil || r.to != nil
}

// specs reads the rules of a request on group g.
func (a *api) specs(ctx context.Context, r ruleRequest, g vpc.SecurityGroup) ([]vpc.RuleSpec, error) {
	permissions := r.permissions
	if older, given := r.older(); given {
		if len(permissions) > 0 {
			return nil, errs.New(errs.InvalidParameterCombination, "The parameters IpPermissions and IpProtocol, CidrIp, FromPort, ToPort cannot be used together")
		}
		if older.IpProtocol == nil && older.UserIdGroupPairs != nil {
			older.IpProtocol = new("-1")
		}
		permissions = []ec2gen.IpPermission{older}
	}
	var specs []vpc.RuleSpec
	for i, permission := range permissions {
		some, err := a.permissionSpecs(ctx, i, permission, g)
		if err != nil {
			return nil, err
		}
		specs = append(specs, some...)
	}
	return specs, nil
}

// permissionSpecs makes one rule for each range and group of a permission.
func (a *api) permissionSpecs(ctx context.Context, n int, p ec2gen.IpPermission, g vpc.SecurityGroup) ([]vpc.RuleSpec, error) {
	base, err := ports(n, p)
	if err != nil {
		return nil, err
	}
	var specs []vpc.RuleSpec
	for _, r := range p.IpRanges {
		spec := base
		if spec.CIDR, err = netip.ParsePrefix(deref(r.CidrIp)); err != nil || !spec.CIDR.Addr().Is4() {
			return nil, errs.New(errs.InvalidParameterValue, "CIDR block %.64s is malformed", deref(r.CidrIp))
		}
		spec.Description = deref(r.Description)
		specs = append(specs, spec)
	}
	for _, pair := range p.UserIdGroupPairs {
		spec := base
		if spec.Peer, err = a.peer(ctx, pair, g.VPC); err != nil {
			return nil, err
		}
		spec.Description = deref(pair.Description)
		specs = append(specs, spec)
	}
	if len(specs) == 0 {
		return nil, errs.New(errs.InvalidParameterValue, "%s has no source: give IpRanges or Groups", at(n, "*"))
	}
	for _, spec := range specs {
		if _, err := spec.Canonical(); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// ports reads protocol and ports. Ports mean something for tcp, udp and icmp only; icmp's may be left out.
func ports(n int, p ec2gen.IpPermission) (vpc.RuleSpec, error) {
	if deref(p.IpProtocol) == "" {
		return vpc.RuleSpec{}, errs.Missing(at(n, "IpProtocol"))
	}
	protocol, err := vpc.ParseProtocol(*p.IpProtocol)
	if err != nil {
		return vpc.RuleSpec{}, errs.New(errs.InvalidPermissionMalformed, "Unsupported IP protocol \"%.32s\"", *p.IpProtocol)
	}
	spec := vpc.RuleSpec{Protocol: protocol, FromPort: vpc.AnyPort, ToPort: vpc.AnyPort}
	if (p.FromPort == nil || p.ToPort == nil) && (protocol == vpc.TCP || protocol == vpc.UDP) {
		return spec, errs.New(errs.InvalidParameterValue, "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
	}
	if p.FromPort != nil {
		spec.FromPort = int(*p.FromPort)
	}
	if p.ToPort != nil {
		spec.ToPort = int(*p.ToPort)
	}
	return spec, nil
}

// peer finds the group that a rule refers to: of the caller's own account, by id, or by name in the rule's VPC.
func (a *api) peer(ctx context.Context, pair ec2gen.UserIdGroupPair, network ids.VPC) (ids.SecurityGroup, error) {
	if owner := deref(pair.UserId); owner != "" && owner != string(caller(ctx)) {
		return "", errs.New(errs.InvalidGroupNotFound, "The security group of account '%.32s' cannot be referred to: networks are not shared between accounts", owner)
	}
	if id := deref(pair.GroupId); id != "" {
		return errs.ParseID[ids.SecurityGroup](id)
	}
	if deref(pair.GroupName) == "" {
		return "", errs.New(errs.MissingParameter, "Missing source specification: include source security group or CIDR information")
	}
	g, err := a.groupByName(ctx, network, *pair.GroupName)
	return g.ID, err
}

// authorize adds rules to one direction.
func (a *api) authorize(ctx context.Context, r ruleRequest, egress bool, specifications []ec2gen.TagSpecification) ([]ec2gen.SecurityGroupRule, error) {
	tags, err := createTags(specifications, ec2gen.ResourceTypeSecurityGroupRule)
	if err != nil {
		return nil, err
	}
	g, err := a.namedGroup(ctx, r.groupID, r.groupName)
	if err != nil {
		return nil, err
	}
	specs, err := a.specs(ctx, r, g)
	if err != nil {
		return nil, err
	}
	if len(specs) == 0 {
		return nil, errs.Missing("IpPermissions.1")
	}
	if dryRun(ctx) != nil {
		return nil, orDryRun(a.checkPeers(ctx, specs))
	}
	rules, err := a.VPC.Authorize(ctx, vpc.AuthorizeRequest{Account: caller(ctx), Group: g.ID, Egress: egress, Rules: specs, Tags: tags})
	return each(rules, convert.Rule), err
}

// revoke removes rules from one direction.
func (a *api) revoke(ctx context.Context, r ruleRequest, egress bool, ruleIDs []string) error {
	parsed, err := parseIDs[ids.SecurityGroupRule](ruleIDs)
	if err != nil {
		return err
	}
	g, err := a.namedGroup(ctx, r.groupID, r.groupName)
	if err != nil {
		return err
	}
	specs, err := a.specs(ctx, r, g)
	if err != nil {
		return err
	}
	switch {
	case len(specs) > 0 && len(parsed) > 0:
		return errs.New(errs.InvalidParameterCombination, "The parameters IpPermissions and SecurityGroupRuleIds cannot be used together")
	case len(specs) == 0 && len(parsed) == 0:
		return errs.New(errs.MissingParameter, "The request must contain IpPermissions or SecurityGroupRuleIds")
	}
	if dryRun(ctx) != nil {
		if err := a.checkPeers(ctx, specs); err != nil || len(parsed) == 0 {
			return orDryRun(err)
		}
		_, err := a.VPC.DescribeRules(ctx, caller(ctx), parsed, nil)
		return orDryRun(err)
	}
	_, err = a.VPC.Revoke(ctx, vpc.RevokeRequest{Account: caller(ctx), Group: g.ID, Egress: egress, Rules: specs, RuleIDs: parsed})
	return err
}

func (a *api) AuthorizeSecurityGroupIngress(ctx context.Context, in *ec2gen.AuthorizeSecurityGroupIngressInput) (*ec2gen.AuthorizeSecurityGroupIngressOutput, error) {
	rules, err := a.authorize(ctx, ruleRequest{
		groupID: in.GroupId, groupName: in.GroupName, permissions: in.IpPermissions, protocol: in.IpProtocol, cidr: in.CidrIp, from: in.FromPort, to: in.ToPort,
		sourceName: in.SourceSecurityGroupName, sourceUID: in.SourceSecurityGroupOwnerId,
	}, false, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	return &ec2gen.AuthorizeSecurityGroupIngressOutput{Return: new(true), SecurityGroupRules: rules}, nil
}

func (a *api) AuthorizeSecurityGroupEgress(ctx context.Context, in *ec2gen.AuthorizeSecurityGroupEgressInput) (*ec2gen.AuthorizeSecurityGroupEgressOutput, error) {
	rules, err := a.authorize(ctx, ruleRequest{groupID: in.GroupId, permissions: in.IpPermissions}, true, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	return &ec2gen.AuthorizeSecurityGroupEgressOutput{Return: new(true), SecurityGroupRules: rules}, nil
}

func (a *api) RevokeSecurityGroupIngress(ctx context.Context, in *ec2gen.RevokeSecurityGroupIngressInput) (*ec2gen.RevokeSecurityGroupIngressOutput, error) {
	err := a.revoke(ctx, ruleRequest{
		groupID: in.GroupId, groupName: in.GroupName, permissions: in.IpPermissions, protocol: in.IpProtocol, cidr: in.CidrIp, from: in.FromPort, to: in.ToPort,
		sourceName: in.SourceSecurityGroupName, sourceUID: in.SourceSecurityGroupOwnerId,
	}, false, in.SecurityGroupRuleIds)
	if err != nil {
		return nil, err
	}
	return &ec2gen.RevokeSecurityGroupIngressOutput{Return: new(true)}, nil
}

func (a *api) RevokeSecurityGroupEgress(ctx context.Context, in *ec2gen.RevokeSecurityGroupEgressInput) (*ec2gen.RevokeSecurityGroupEgressOutput, error) {
	err := a.revoke(ctx, ruleRequest{groupID: in.GroupId, permissions: in.IpPermissions}, true, in.SecurityGroupRuleIds)
	if err != nil {
		return nil, err
	}
	return &ec2gen.RevokeSecurityGroupEgressOutput{Return: new(true)}, nil
}

// checkPeers checks that the groups that rules refer to exist.
func (a *api) checkPeers(ctx context.Context, specs []vpc.RuleSpec) error {
	var peers []ids.SecurityGroup
	for _, spec := range specs {
		if spec.Peer != "" {
			peers = append(peers, spec.Peer)
		}
	}
	if len(peers) == 0 {
		return nil
	}
	_, err := a.VPC.DescribeGroups(ctx, caller(ctx), peers, nil)
	return err
}
