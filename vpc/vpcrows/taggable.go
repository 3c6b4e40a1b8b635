package vpcrows

import (
	"context"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
)

// Taggable is a kind of resource that can have tags. The daemon registers each with the accounts part.
type Taggable struct {
	IDPrefix string   // before the hyphen
	Kind     vpc.Kind // EC2's resource type
	// Expect guards that a resource exists; the transaction fails with otherwise if it does not.
	Expect func(tx *store.Tx, a ids.Account, resource string, otherwise error)

	family Family
}

// Taggables returns the kinds of this part. Each has a row whose key is account and id.
func Taggables() []Taggable {
	return []Taggable{
		taggable[ids.VPC](vpc.KindVPC, FamilyVPC),
		taggable[ids.Subnet](vpc.KindSubnet, FamilySubnet),
		taggable[ids.SecurityGroup](vpc.KindGroup, FamilyGroup),
		taggable[ids.SecurityGroupRule](vpc.KindRule, familyRuleID),
		taggable[ids.Interface](vpc.KindInterface, FamilyInterface),
		taggable[ids.RouteTable](vpc.KindRouteTable, familyRouteTable),
		taggable[ids.NetworkACL](vpc.KindNetworkACL, familyACL),
		taggable[ids.DHCPOptions](vpc.KindDHCPOptions, FamilyDHCP),
	}
}

func taggable[T ids.ID](kind vpc.Kind, f Family) Taggable {
	var zero T
	return Taggable{
		IDPrefix: zero.Prefix(), Kind: kind, family: f,
		Expect: func(tx *store.Tx, a ids.Account, resource string, otherwise error) {
			tx.Expect(key(f, a, resource), store.Exists(), store.Else(otherwise))
		},
	}
}

// exists looks a resource of this part up, for the invariant about tags.
func exists(ctx context.Context, r store.Reader, a ids.Account, resource string) (mine, found bool, err error) {
	for _, t := range Taggables() {
		if len(resource) > len(t.IDPrefix) && resource[:len(t.IDPrefix)+1] == t.IDPrefix+"-" {
			_, found, err := r.Get(ctx, prefix(t.family, a, resource))
			return true, found, err
		}
	}
	return false, false, nil
}
