package server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// newGroup draws a group that lets everything out.
func (s *Service) newGroup(r vpc.CreateGroupRequest) vpc.SecurityGroup {
	g := vpc.SecurityGroup{
		ID: ids.New[ids.SecurityGroup](s.env.Random), Account: r.Account, VPC: r.VPC, Name: r.Name,
		Description: r.Description, Created: s.now(), Tags: r.Tags,
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	out := vpc.RuleSpec{Protocol: vpc.AllProtocols, FromPort: vpc.AnyPort, ToPort: vpc.AnyPort, CIDR: everywhere}
	g.Rules = []vpc.Rule{s.newRule(g, true, out)}
	return g
}

func (s *Service) newRule(g vpc.SecurityGroup, egress bool, spec vpc.RuleSpec) vpc.Rule {
	return vpc.Rule{ID: ids.New[ids.SecurityGroupRule](s.env.Random), Account: g.Account, Group: g.ID, Egress: egress, RuleSpec: spec}
}

// CreateGroup makes a group. See vpc.Service.
func (s *Service) CreateGroup(ctx context.Context, r vpc.CreateGroupRequest) (vpc.SecurityGroup, error) {
	if err := validateGroup(r); err != nil {
		return vpc.SecurityGroup{}, err
	}
	if r.DryRun {
		return vpc.SecurityGroup{}, s.placeOfGroup(ctx, r)
	}
	var g vpc.SecurityGroup
	_, err := s.transact(ctx, "create security group", func(tx *store.Tx) error {
		in, err := s.groupVPC(ctx, tx, r)
		if err != nil {
			return err
		}
		r := r
		r.VPC = in
		g = s.newGroup(r)
		vpcrows.InsertGroup(tx, g)
		return nil
	})
	if err != nil {
		return vpc.SecurityGroup{}, err
	}
	return g, nil
}

// placeOfGroup checks for a dry run that the VPC exists which a group is to be in.
func (s *Service) placeOfGroup(ctx context.Context, r vpc.CreateGroupRequest) error {
	if r.VPC != "" {
		_, err := s.DescribeVPCs(ctx, r.Account, []ids.VPC{r.VPC}, nil)
		return err
	}
	found, err := s.DescribeVPCs(ctx, r.Account, nil, func(v *vpc.VPC) bool { return v.Default })
	if err == nil && len(found) == 0 {
		err = vpc.ErrNoDefaultVPC
	}
	return err
}

// groupVPC returns the VPC that a group is to be in, which exists.
func (s *Service) groupVPC(ctx context.Context, tx *store.Tx, r vpc.CreateGroupRequest) (ids.VPC, error) {
	if r.VPC != "" {
		_, err := vpcrows.GetVPC(ctx, tx, r.Account, r.VPC)
		return r.VPC, err
	}
	d, err := vpcrows.GetDefault(ctx, tx, r.Account)
	if err != nil {
		return "", err
	}
	if _, err := vpcrows.GetVPC(ctx, tx, r.Account, d.VPC); isNotFound(err) {
		return "", vpc.ErrNoDefaultVPC
	} else if err != nil {
		return "", err
	}
	return d.VPC, nil
}

func validateGroup(r vpc.CreateGroupRequest) error {
	if strings.HasPrefix(r.Name, "sg-") {
		return &vpc.InvalidError{Param: "GroupName", Value: r.Name, Reason: "it begins as an id does"}
	}
	if err := validateText("GroupName", r.Name, vpc.MaxGroupNameBytes); err != nil {
		return err
	}
	if err := validateText("GroupDescription", r.Description, vpc.MaxDescriptionBytes); err != nil {
		return err
	}
	return account.ValidateTags(r.Name, r.Tags)
}

// validateText checks the characters that names and descriptions of groups may have.
func validateText(param, text string, maxBytes int) error {
	if text == "" || len(text) > maxBytes {
		return &vpc.InvalidError{Param: param, Value: text, Reason: fmt.Sprintf("want 1 to %d characters", maxBytes)}
	}
	if !vpc.IsText(text) {
		return &vpc.InvalidError{Param: param, Value: text, Reason: "want letters, digits and" + vpc.TextMarks}
	}
	return nil
}

// DeleteGroup removes a group. See vpc.Service.
func (s *Service) DeleteGroup(ctx context.Context, a ids.Account, id ids.SecurityGroup) error {
	err := s.inSteps(ctx, "delete security group "+string(id), func(tx *store.Tx) (bool, error) {
		return vpcrows.DeleteGroup(ctx, tx, a, id)
	})
	return s.nameInterfaces(err, a, func(i *vpcrows.Interface) bool { return slices.Contains(i.Groups, id) })
}

// DescribeGroups returns groups with their rules. See vpc.Service.
func (s *Service) DescribeGroups(ctx context.Context, a ids.Account, want []ids.SecurityGroup, match func(*vpc.SecurityGroup) bool) ([]vpc.SecurityGroup, error) {
	q := query[ids.SecurityGroup, vpc.SecurityGroup, vpc.SecurityGroup]{
		kind:  vpc.KindGroup,
		table: func(v *view) owned[ids.SecurityGroup, vpc.SecurityGroup] { return v.groups },
		show:  s.showGroup,
		id:    func(v *vpc.SecurityGroup) ids.SecurityGroup { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

func (s *Service) showGroup(v *view, g vpc.SecurityGroup) vpc.SecurityGroup {
	g.Rules = slices.SortedFunc(maps.Values(v.rulesOf[g.ID]), func(x, y vpc.Rule) int { return cmp.Compare(x.ID, y.ID) })
	for i := range g.Rules {
		g.Rules[i] = s.showRule(v, g.Rules[i])
	}
	g.Tags = s.tags.Tags(g.Account, string(g.ID))
	return g
}

func (s *Service) showRule(_ *view, r vpc.Rule) vpc.Rule {
	r.Tags = s.tags.Tags(r.Account, string(r.ID))
	return r
}

// DescribeRules returns rules. See vpc.Service.
func (s *Service) DescribeRules(ctx context.Context, a ids.Account, want []ids.SecurityGroupRule, match func(*vpc.Rule) bool) ([]vpc.Rule, error) {
	q := query[ids.SecurityGroupRule, vpc.Rule, vpc.Rule]{
		kind:  vpc.KindRule,
		table: func(v *view) owned[ids.SecurityGroupRule, vpc.Rule] { return v.rules },
		show:  s.showRule,
		id:    func(v *vpc.Rule) ids.SecurityGroupRule { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

// Authorize adds rules. See vpc.Service.
func (s *Service) Authorize(ctx context.Context, r vpc.AuthorizeRequest) ([]vpc.Rule, error) {
	specs, err := canonical(r.Group, r.Rules, 0)
	if err != nil {
		return nil, err
	}
	if err := account.ValidateTags(string(r.Group), r.Tags); err != nil {
		return nil, err
	}
	rules := make([]vpc.Rule, len(specs))
	for i, spec := range specs {
		rules[i] = s.newRule(vpc.SecurityGroup{ID: r.Group, Account: r.Account}, r.Egress, spec)
		rules[i].Tags = maps.Clone(r.Tags)
	}
	_, err = s.transact(ctx, "authorize rules of "+string(r.Group), func(tx *store.Tx) error {
		return vpcrows.AuthorizeRules(ctx, tx, r.Account, r.Group, rules)
	})
	if err != nil {
		return nil, err
	}
	return rules, nil
}

// Revoke removes rules. See vpc.Service.
func (s *Service) Revoke(ctx context.Context, r vpc.RevokeRequest) ([]vpc.Rule, error) {
	var err error
	if r.Rules, err = canonical(r.Group, r.Rules, len(r.RuleIDs)); err != nil {
		return nil, err
	}
	r.RuleIDs = slices.Compact(slices.Sorted(slices.Values(r.RuleIDs)))
	var gone []vpc.Rule
	_, err = s.transact(ctx, "revoke rules of "+string(r.Group), func(tx *store.Tx) (err error) {
		gone, err = vpcrows.RevokeRules(ctx, tx, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

// canonical brings the rules of a call into stored form and refuses repetitions. more counts what else the call names.
func canonical(g ids.SecurityGroup, specs []vpc.RuleSpec, more int) ([]vpc.RuleSpec, error) {
	if len(specs)+more == 0 {
		return nil, &vpc.InvalidError{Param: "IpPermissions", Reason: "no rule is given"}
	}
	if len(specs)+more > vpc.MaxRulesPerCall {
		return nil, &vpc.LimitError{Limit: vpc.LimitRulesPerCall, ID: string(g), Max: vpc.MaxRulesPerCall}
	}
	out := make([]vpc.RuleSpec, len(specs))
	seen := map[vpc.RuleSpec]bool{}
	for i, spec := range specs {
		c, err := spec.Canonical()
		if err != nil {
			return nil, err
		}
		content := c
		content.Description = ""
		if seen[content] {
			return nil, &vpc.PermissionError{Problem: vpc.ProblemRepeated, Group: g, Rule: spec}
		}
		seen[content] = true
		out[i] = c
	}
	return out, nil
}
