// Package vpcrows owns the networks part's rows: their keys, their types, and what compute calls inside its own
// transactions.
//
// Key prefix "vpc". Resources are keyed by account and id, so that another account's resource is not found by
// construction. Pools and counters are rows of their own, which no view follows.
//
// A launch calls ExpectPrepared once and Attach for each interface: guards and writes only, no reads, so that launches
// never conflict with each other or with edits of rules. The end of an interface has two steps: Detach takes it from
// its host's desired state and leaves its address in state releasing; Release, after the host's word, returns the address.
// Move changes the host.
//
// Start with Attach. vpc/server uses the rest.
package vpcrows

import (
	"fmt"
	"strings"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
	"github.com/nimbrel/nimbrel/vpc"
)

const part = "vpc"

// Family is the second element of a key: what the row is.
type Family string

// The families. In parentheses what follows in the key.
const (
	FamilyVPC       Family = "vpc"       // (account, vpc)
	FamilySubnet    Family = "subnet"    // (account, subnet)
	FamilyGroup     Family = "group"     // (account, group)
	FamilyRule      Family = "rule"      // (group, egress, protocol, from, to, source)
	FamilyInterface Family = "interface" // (account, interface)
	FamilyIdentity  Family = "identity"  // (vpc, number)
	FamilyDHCP      Family = "dhcp"      // (account, options)
	FamilyDefault   Family = "default"   // (account): its default VPC and DHCP options

	familySubnetAt     Family = "subnet-at"     // (vpc, first address): the subnet there
	familyGroupName    Family = "group-name"    // (vpc, name): the group's id
	familyRuleID       Family = "rule-id"       // (account, rule id): the group's id
	familyPeer         Family = "peer"          // (group, rule id): the group whose rule refers to it
	familyIdentityOf   Family = "identity-of"   // (vpc, set of groups): the identity's number
	familyIdentityWith Family = "identity-with" // (group, number): nothing; identities that hold the group
	familyIdentityUse  Family = "identity-use"  // (vpc, number): interfaces with it, releasing ones included
	familyIdentityLast Family = "identity-last" // (vpc): the last number given
	familyRetired      Family = "identity-gone" // (vpc, sequence, number): a number that hosts may still know
	familyRouteTable   Family = "route-table"   // (account, table): its VPC
	familyACL          Family = "acl"           // (account, list): its VPC
	familyVNI          Family = "vni"           // (): the last VNI given
	familyPool         Family = "pool"          // (subnet): addresses by offset
)

func key(f Family, parts ...any) store.Template {
	return store.Key(append([]any{part, f}, parts...)...)
}

func prefix(f Family, parts ...any) []byte { return key(f, parts...).Base }

func vpcKey(a ids.Account, id ids.VPC) store.Template { return key(FamilyVPC, a, id) }

func subnetKey(a ids.Account, id ids.Subnet) store.Template { return key(FamilySubnet, a, id) }

func groupKey(a ids.Account, id ids.SecurityGroup) store.Template { return key(FamilyGroup, a, id) }

func interfaceKey(a ids.Account, id ids.Interface) store.Template { return key(FamilyInterface, a, id) }

func identityKey(v ids.VPC, number uint16) store.Template { return key(FamilyIdentity, v, number) }

func identityUseKey(v ids.VPC, number uint16) store.Template {
	return key(familyIdentityUse, v, number)
}

func pool(id ids.Subnet) []byte { return prefix(familyPool, id) }

// ruleKey names a rule by its content, so that a duplicate is the same row.
func ruleKey(g ids.SecurityGroup, egress bool, r vpc.RuleSpec) store.Template {
	return key(FamilyRule, g, egress, int(r.Protocol), r.FromPort, r.ToPort, source(r))
}

func source(r vpc.RuleSpec) string {
	if r.CIDR.IsValid() {
		return r.CIDR.String()
	}
	return string(r.Peer)
}

// set is a sorted set of groups as one text.
func set(groups []ids.SecurityGroup) string {
	texts := make([]string, len(groups))
	for i, g := range groups {
		texts[i] = string(g)
	}
	return strings.Join(texts, " ")
}

// ViewPrefixes are the rows that an in-memory view follows.
func ViewPrefixes() [][]byte {
	var out [][]byte
	for _, f := range []Family{FamilyVPC, FamilySubnet, FamilyGroup, FamilyRule, FamilyInterface, FamilyIdentity, FamilyDHCP, FamilyDefault} {
		out = append(out, prefix(f))
	}
	return out
}

// ParseKey splits a key of this part into its family and the elements that follow.
func ParseKey(k []byte) (Family, []any, error) {
	parts, err := tuple.Decode(k)
	if err != nil {
		return "", nil, fmt.Errorf("parse vpc key %q: %w", k, err)
	}
	if len(parts) < 2 || parts[0] != part {
		return "", nil, fmt.Errorf("parse vpc key %q: not of this part", k)
	}
	family, ok := parts[1].(string)
	if !ok {
		return "", nil, fmt.Errorf("parse vpc key %q: family is %T", k, parts[1])
	}
	return Family(family), parts[2:], nil
}
