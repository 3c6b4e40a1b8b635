package server

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// owned is a table by owner.
type owned[K ~string, R any] map[ids.Account]map[K]R

func (o owned[K, R]) put(a ids.Account, k K, r R) {
	if o[a] == nil {
		o[a] = map[K]R{}
	}
	o[a][k] = r
}

func (o owned[K, R]) remove(a ids.Account, k K) {
	delete(o[a], k)
	if len(o[a]) == 0 {
		delete(o, a)
	}
}

// view holds the networks part's rows as they were at one version.
type view struct {
	mu         sync.RWMutex
	vpcs       owned[ids.VPC, vpcrows.VPC]
	subnets    owned[ids.Subnet, vpcrows.Subnet]
	groups     owned[ids.SecurityGroup, vpc.SecurityGroup]
	rules      owned[ids.SecurityGroupRule, vpc.Rule]
	interfaces owned[ids.Interface, vpcrows.Interface]
	dhcp       owned[ids.DHCPOptions, vpc.DHCPOptions]
	defaults   map[ids.Account]vpcrows.Default

	// Derived from the above.
	routeTables owned[ids.RouteTable, ids.VPC]
	acls        owned[ids.NetworkACL, ids.VPC]
	ruleAt      map[string]vpc.Rule                                      // by row key
	rulesOf     map[ids.SecurityGroup]map[ids.SecurityGroupRule]vpc.Rule //
	subnetsOf   map[ids.VPC]map[ids.Subnet]vpcrows.Subnet                //
	groupNamed  map[ids.VPC]map[string]ids.SecurityGroup                 //
	taken       map[ids.Subnet]int                                       // interfaces, releasing ones included
	releasing   map[ids.Host]map[ids.Interface]vpcrows.Interface         //
	identities  map[ids.VPC]map[string]vpc.Identity                      // by set of groups
	identityAt  map[string]vpc.Identity                                  // by row key
}

func newView() *view {
	v := &view{}
	v.reset()
	return v
}

func (v *view) reset() {
	v.vpcs = owned[ids.VPC, vpcrows.VPC]{}
	v.subnets = owned[ids.Subnet, vpcrows.Subnet]{}
	v.groups = owned[ids.SecurityGroup, vpc.SecurityGroup]{}
	v.rules = owned[ids.SecurityGroupRule, vpc.Rule]{}
	v.interfaces = owned[ids.Interface, vpcrows.Interface]{}
	v.dhcp = owned[ids.DHCPOptions, vpc.DHCPOptions]{}
	v.defaults = map[ids.Account]vpcrows.Default{}
	v.routeTables = owned[ids.RouteTable, ids.VPC]{}
	v.acls = owned[ids.NetworkACL, ids.VPC]{}
	v.ruleAt = map[string]vpc.Rule{}
	v.rulesOf = map[ids.SecurityGroup]map[ids.SecurityGroupRule]vpc.Rule{}
	v.subnetsOf = map[ids.VPC]map[ids.Subnet]vpcrows.Subnet{}
	v.groupNamed = map[ids.VPC]map[string]ids.SecurityGroup{}
	v.taken = map[ids.Subnet]int{}
	v.releasing = map[ids.Host]map[ids.Interface]vpcrows.Interface{}
	v.identities = map[ids.VPC]map[string]vpc.Identity{}
	v.identityAt = map[string]vpc.Identity{}
}

// apply takes a batch of the feed. A row that cannot be read is a broken invariant: only this part writes them.
func (v *view) apply(b follow.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.Snapshot {
		v.reset()
	}
	for _, c := range b.Changes {
		err := v.change(c)
		assert.That(err == nil, "vpc row at version %d: %v", b.Version, err)
	}
}

func (v *view) change(c store.Change) error {
	family, parts, err := vpcrows.ParseKey(c.Key)
	if err != nil {
		return err
	}
	switch family {
	case vpcrows.FamilyRule:
		return v.changeRule(c)
	case vpcrows.FamilyIdentity:
		return v.changeIdentity(c)
	}
	owner, id, err := ownerAndID(parts)
	if err != nil {
		return err
	}
	switch family {
	case vpcrows.FamilyVPC:
		return v.changeVPC(c, owner, ids.VPC(id))
	case vpcrows.FamilySubnet:
		return v.changeSubnet(c, owner, ids.Subnet(id))
	case vpcrows.FamilyGroup:
		return v.changeGroup(c, owner, ids.SecurityGroup(id))
	case vpcrows.FamilyInterface:
		return v.changeInterface(c, owner, ids.Interface(id))
	case vpcrows.FamilyDHCP:
		return v.changeDHCP(c, owner, ids.DHCPOptions(id))
	case vpcrows.FamilyDefault:
		return v.changeDefault(c, owner)
	}
	return nil
}

// ownerAndID reads what follows the family in the key of a resource.
func ownerAndID(parts []any) (ids.Account, string, error) {
	texts := [2]string{}
	for i, p := range parts {
		text, ok := p.(string)
		if !ok || i > 1 {
			return "", "", fmt.Errorf("key of a resource with the elements %v", parts)
		}
		texts[i] = text
	}
	return ids.Account(texts[0]), texts[1], nil
}

func (v *view) changeVPC(c store.Change, a ids.Account, id ids.VPC) error {
	if c.Deleted {
		old := v.vpcs[a][id]
		v.routeTables.remove(a, old.MainRouteTable)
		v.acls.remove(a, old.DefaultACL)
		v.vpcs.remove(a, id)
		return nil
	}
	r, err := vpcrows.DecodeVPC(c.Value)
	if err == nil {
		v.vpcs.put(a, id, r)
		v.routeTables.put(a, r.MainRouteTable, id)
		v.acls.put(a, r.DefaultACL, id)
	}
	return err
}

func (v *view) changeSubnet(c store.Change, a ids.Account, id ids.Subnet) error {
	if c.Deleted {
		removeFrom(v.subnetsOf, v.subnets[a][id].VPC, id)
		v.subnets.remove(a, id)
		return nil
	}
	r, err := vpcrows.DecodeSubnet(c.Value)
	if err == nil {
		v.subnets.put(a, id, r)
		putInto(v.subnetsOf, r.VPC, id, r)
	}
	return err
}

func (v *view) changeGroup(c store.Change, a ids.Account, id ids.SecurityGroup) error {
	if c.Deleted {
		old := v.groups[a][id]
		if v.groupNamed[old.VPC][old.Name] == id { // and not taken again by a change earlier in this batch
			removeFrom(v.groupNamed, old.VPC, old.Name)
		}
		v.groups.remove(a, id)
		return nil
	}
	r, err := vpcrows.DecodeGroup(c.Value)
	if err == nil {
		v.groups.put(a, id, r)
		putInto(v.groupNamed, r.VPC, r.Name, id)
	}
	return err
}

func (v *view) changeRule(c store.Change) error {
	at := string(c.Key)
	if old, found := v.ruleAt[at]; found {
		delete(v.ruleAt, at)
		v.rules.remove(old.Account, old.ID)
		removeFrom(v.rulesOf, old.Group, old.ID)
	}
	if c.Deleted {
		return nil
	}
	r, err := vpcrows.DecodeRule(c.Value)
	if err == nil {
		v.ruleAt[at] = r
		v.rules.put(r.Account, r.ID, r)
		putInto(v.rulesOf, r.Group, r.ID, r)
	}
	return err
}

func (v *view) changeInterface(c store.Change, a ids.Account, id ids.Interface) error {
	old, had := v.interfaces[a][id]
	if had {
		v.taken[old.Subnet]--
		removeFrom(v.releasing, old.Host, id)
	}
	if c.Deleted {
		if v.taken[old.Subnet] == 0 {
			delete(v.taken, old.Subnet)
		}
		v.interfaces.remove(a, id)
		return nil
	}
	r, err := vpcrows.DecodeInterface(c.Value)
	if err != nil {
		return err
	}
	v.interfaces.put(a, id, r)
	v.taken[r.Subnet]++
	if r.State == vpc.InterfaceReleasing {
		putInto(v.releasing, r.Host, id, r)
	}
	return nil
}

func (v *view) changeIdentity(c store.Change) error {
	at := string(c.Key)
	if c.Deleted {
		old := v.identityAt[at]
		delete(v.identityAt, at)
		removeFrom(v.identities, old.VPC, setOf(old.Groups))
		return nil
	}
	r, err := vpcrows.DecodeIdentity(c.Value)
	if err == nil {
		v.identityAt[at] = r
		putInto(v.identities, r.VPC, setOf(r.Groups), r)
	}
	return err
}

func (v *view) changeDHCP(c store.Change, a ids.Account, id ids.DHCPOptions) error {
	if c.Deleted {
		v.dhcp.remove(a, id)
		return nil
	}
	r, err := vpcrows.DecodeDHCP(c.Value)
	if err == nil {
		v.dhcp.put(a, id, r)
	}
	return err
}

func (v *view) changeDefault(c store.Change, a ids.Account) error {
	if c.Deleted {
		delete(v.defaults, a)
		return nil
	}
	r, err := vpcrows.DecodeDefault(c.Value)
	if err == nil {
		v.defaults[a] = r
	}
	return err
}

func putInto[K, L comparable, R any](table map[K]map[L]R, k K, l L, r R) {
	if table[k] == nil {
		table[k] = map[L]R{}
	}
	table[k][l] = r
}

func removeFrom[K, L comparable, R any](table map[K]map[L]R, k K, l L) {
	delete(table[k], l)
	if len(table[k]) == 0 {
		delete(table, k)
	}
}

// setOf is a sorted set of groups as one text.
func setOf(groups []ids.SecurityGroup) string {
	var b strings.Builder
	for _, g := range groups {
		b.WriteString(string(g))
		b.WriteByte(' ')
	}
	return b.String()
}
