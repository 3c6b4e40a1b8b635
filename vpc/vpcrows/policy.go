package vpcrows

import (
	"context"
	"slices"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
)

// InsertGroup writes a new group with the rules in it, publishes it to the VPC's hosts and charges the quota. It guards
// that the name is free; *vpc.GroupDuplicateError.
func InsertGroup(tx *store.Tx, g vpc.SecurityGroup) {
	accountrows.Charge(tx, g.Account, account.QuotaSecurityGroups, 1)
	taken := store.Else(&vpc.GroupDuplicateError{VPC: g.VPC, Name: g.Name})
	tx.InsertIfAbsent(key(familyGroupName, g.VPC, g.Name), store.Bytes([]byte(g.ID)), taken)
	tx.Put(groupKey(g.Account, g.ID), row.Encode(encodeGroup(g)))
	for _, r := range g.Rules {
		putRule(tx, r)
	}
	tagrows.Insert(tx, g.Account, g.ID, g.Tags)
	publish(tx, g, g.Rules)
}

// GetGroup reads an account's group, without its rules; *vpc.NotFoundError.
func GetGroup(ctx context.Context, tx *store.Tx, a ids.Account, id ids.SecurityGroup) (vpc.SecurityGroup, error) {
	v, found, err := tx.Get(ctx, groupKey(a, id).Base)
	if err != nil {
		return vpc.SecurityGroup{}, err
	}
	if !found {
		return vpc.SecurityGroup{}, &vpc.NotFoundError{Kind: vpc.KindGroup, ID: string(id)}
	}
	return DecodeGroup(v)
}

// DeleteGroup removes a group that is not a VPC's default one; *vpc.NotFoundError, vpc.ErrDefaultGroup,
// *vpc.DependencyError. For more see DeleteVPC.
func DeleteGroup(ctx context.Context, tx *store.Tx, a ids.Account, id ids.SecurityGroup) (more bool, err error) {
	g, err := GetGroup(ctx, tx, a, id)
	if err != nil {
		return false, err
	}
	if g.Default {
		return false, vpc.ErrDefaultGroup
	}
	inUse := &vpc.DependencyError{Kind: vpc.KindGroup, ID: string(id)}
	if inUse.Dependents, err = referrers(ctx, tx, id); err != nil {
		return false, err
	}
	if len(inUse.Dependents) > 0 {
		return false, inUse
	}
	more, err = retireWith(ctx, tx, g, inUse)
	if err != nil || more {
		return more, err
	}
	return false, removeGroup(ctx, tx, a, id)
}

// referrers returns the groups whose rules refer to a group.
func referrers(ctx context.Context, tx *store.Tx, id ids.SecurityGroup) ([]vpc.Dependent, error) {
	rows, err := tx.Range(ctx, under(prefix(familyPeer, id), vpc.MaxDependents))
	if err != nil {
		return nil, err
	}
	var out []vpc.Dependent
	for _, kv := range rows {
		d := vpc.Dependent{Kind: vpc.KindGroup, ID: string(kv.Value.Bytes)}
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out, nil
}

// removeGroup removes a group that nothing refers to.
func removeGroup(ctx context.Context, tx *store.Tx, a ids.Account, id ids.SecurityGroup) error {
	g, err := GetGroup(ctx, tx, a, id)
	if err != nil {
		return err
	}
	rules, err := Rules(ctx, tx, id)
	if err != nil {
		return err
	}
	for _, r := range rules {
		deleteRule(tx, r)
	}
	tx.Delete(groupKey(a, id))
	tx.Delete(key(familyGroupName, g.VPC, g.Name))
	tagrows.Delete(tx, a, id)
	accountrows.Refund(tx, a, account.QuotaSecurityGroups, 1)
	dispatchrows.Delete(tx, document(g.VPC), host.SectionGroups, string(id))
	return nil
}

// Rules reads the rules of a group, both directions.
func Rules(ctx context.Context, r store.Reader, id ids.SecurityGroup) ([]vpc.Rule, error) {
	rows, err := r.Range(ctx, under(prefix(FamilyRule, id), 0))
	if err != nil {
		return nil, err
	}
	out := make([]vpc.Rule, len(rows))
	for i, kv := range rows {
		if out[i], err = DecodeRule(kv.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// AuthorizeRules adds canonical rules of one direction to a group, all or none, and publishes it. *vpc.NotFoundError for
// the group or a peer, *vpc.PermissionError for a duplicate, *vpc.LimitError.
func AuthorizeRules(ctx context.Context, tx *store.Tx, a ids.Account, id ids.SecurityGroup, rules []vpc.Rule) error {
	g, err := GetGroup(ctx, tx, a, id)
	if err != nil {
		return err
	}
	there, err := Rules(ctx, tx, id)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if i := indexOf(there, r.Egress, r.RuleSpec); i >= 0 {
			return &vpc.PermissionError{Problem: vpc.ProblemDuplicate, Group: id, Rule: r.RuleSpec}
		}
		if err := checkPeer(ctx, tx, g, r.Peer); err != nil {
			return err
		}
		putRule(tx, r)
		tagrows.Insert(tx, a, r.ID, r.Tags)
	}
	there = append(there, rules...)
	if err := checkRuleCount(id, there); err != nil {
		return err
	}
	publish(tx, g, there)
	return nil
}

// indexOf finds the rule with the same content, or returns -1.
func indexOf(rules []vpc.Rule, egress bool, spec vpc.RuleSpec) int {
	spec.Description = ""
	return slices.IndexFunc(rules, func(r vpc.Rule) bool {
		r.Description = ""
		return r.Egress == egress && r.RuleSpec == spec
	})
}

func checkPeer(ctx context.Context, tx *store.Tx, g vpc.SecurityGroup, peer ids.SecurityGroup) error {
	if peer == "" || peer == g.ID {
		return nil
	}
	p, err := GetGroup(ctx, tx, g.Account, peer)
	if err == nil && p.VPC != g.VPC {
		err = &vpc.NotFoundError{Kind: vpc.KindGroup, ID: string(peer)}
	}
	return err
}

func checkRuleCount(id ids.SecurityGroup, rules []vpc.Rule) error {
	counts := map[bool]int{}
	for _, r := range rules {
		if counts[r.Egress]++; counts[r.Egress] > vpc.MaxRulesPerDirection {
			return &vpc.LimitError{Limit: vpc.LimitRulesPerGroup, ID: string(id), Max: vpc.MaxRulesPerDirection}
		}
	}
	return nil
}

// RevokeRules removes rules of one direction, named by content or by id, all or none, and publishes the group. It returns
// those removed. *vpc.NotFoundError for the group or a rule id, *vpc.PermissionError for content that is not there.
func RevokeRules(ctx context.Context, tx *store.Tx, r vpc.RevokeRequest) ([]vpc.Rule, error) {
	g, err := GetGroup(ctx, tx, r.Account, r.Group)
	if err != nil {
		return nil, err
	}
	there, err := Rules(ctx, tx, r.Group)
	if err != nil {
		return nil, err
	}
	var gone []vpc.Rule
	take := func(i int) {
		gone = append(gone, there[i])
		deleteRule(tx, there[i])
		there = slices.Delete(there, i, i+1)
	}
	for _, spec := range r.Rules {
		i := indexOf(there, r.Egress, spec)
		if i < 0 {
			return nil, &vpc.PermissionError{Problem: vpc.ProblemNotFound, Group: r.Group, Rule: spec}
		}
		take(i)
	}
	for _, id := range r.RuleIDs {
		i := slices.IndexFunc(there, func(have vpc.Rule) bool { return have.ID == id && have.Egress == r.Egress })
		if i < 0 {
			return nil, &vpc.NotFoundError{Kind: vpc.KindRule, ID: string(id)}
		}
		take(i)
	}
	publish(tx, g, there)
	return gone, nil
}

func putRule(tx *store.Tx, r vpc.Rule) {
	tx.Put(ruleKey(r.Group, r.Egress, r.RuleSpec), row.Encode(encodeRule(r)))
	tx.Put(key(familyRuleID, r.Account, r.ID), store.Bytes([]byte(r.Group)))
	if r.Peer != "" && r.Peer != r.Group {
		tx.Put(key(familyPeer, r.Peer, r.ID), store.Bytes([]byte(r.Group)))
	}
}

func deleteRule(tx *store.Tx, r vpc.Rule) {
	tx.Delete(ruleKey(r.Group, r.Egress, r.RuleSpec))
	tx.Delete(key(familyRuleID, r.Account, r.ID))
	if r.Peer != "" && r.Peer != r.Group {
		tx.Delete(key(familyPeer, r.Peer, r.ID))
	}
	tagrows.Delete(tx, r.Account, r.ID)
}

// publish tells the VPC's hosts a group's rules.
func publish(tx *store.Tx, g vpc.SecurityGroup, rules []vpc.Rule) {
	payload := store.Bytes(host.Encode(hostGroup(g.ID, rules)))
	dispatchrows.Put(tx, document(g.VPC), host.SectionGroups, string(g.ID), payload)
}

// hostGroup is a group as hosts know it, rules by id.
func hostGroup(id ids.SecurityGroup, rules []vpc.Rule) host.Group {
	out := host.Group{ID: id}
	for _, r := range slices.SortedFunc(slices.Values(rules), byRuleID) {
		if r.Egress {
			out.Egress = append(out.Egress, hostRule(r))
		} else {
			out.Ingress = append(out.Ingress, hostRule(r))
		}
	}
	return out
}

func byRuleID(x, y vpc.Rule) int {
	switch {
	case x.ID < y.ID:
		return -1
	case x.ID > y.ID:
		return 1
	}
	return 0
}

func hostRule(r vpc.Rule) host.Rule {
	out := host.Rule{ID: r.ID, Group: r.Peer, FromPort: hostPort(r.FromPort), ToPort: hostPort(r.ToPort)}
	if r.Protocol == vpc.AllProtocols {
		out.Any = true
	} else {
		out.Protocol = uint8(r.Protocol)
	}
	if r.CIDR.IsValid() {
		out.CIDR = r.CIDR.String()
	}
	return out
}

// hostPort turns AnyPort into the host's word for it. A full range needs none: 0 to 65535 is a range like others.
func hostPort(p int) uint16 {
	if p == vpc.AnyPort {
		return host.PortAny
	}
	return uint16(p)
}
