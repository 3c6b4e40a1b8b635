package vpcrows

import (
	"context"
	"net/netip"

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

// GetDefault reads what an account got at its beginning; the zero value before that.
func GetDefault(ctx context.Context, tx *store.Tx, a ids.Account) (Default, error) {
	v, found, err := tx.Get(ctx, key(FamilyDefault, a).Base)
	if err != nil || !found {
		return Default{}, err
	}
	return DecodeDefault(v)
}

// PutDefault writes what an account gets at its beginning.
func PutDefault(tx *store.Tx, a ids.Account, d Default) {
	tx.Put(key(FamilyDefault, a), row.Encode(defaultRow{Account: a, DHCPOptions: d.DHCPOptions, VPC: d.VPC}))
}

// InsertDHCP writes a set of DHCP options.
func InsertDHCP(tx *store.Tx, o vpc.DHCPOptions) {
	tx.Put(key(FamilyDHCP, o.Account, o.ID), row.Encode(dhcpRow{ID: o.ID, Account: o.Account, DomainName: o.DomainName}))
}

// InsertVPC writes a new VPC with its route table, network ACL and default group, and charges the quotas. The slot is
// its VNI; the value in v is not used.
func InsertVPC(tx *store.Tx, v VPC, group vpc.SecurityGroup) (vni store.Slot) {
	accountrows.Charge(tx, v.Account, account.QuotaVPCs, 1)
	vni = tx.Add(key(familyVNI), 1, 1, vpc.MaxVNI, store.Else(vpc.ErrVNIsExhausted))
	tx.Put(vpcKey(v.Account, v.ID), row.Encode(encodeVPC(v), row.Bind(vpcRowVNI, vni)))
	tx.Put(key(familyRouteTable, v.Account, v.MainRouteTable), store.Bytes([]byte(v.ID)))
	tx.Put(key(familyACL, v.Account, v.DefaultACL), store.Bytes([]byte(v.ID)))
	tagrows.Insert(tx, v.Account, v.ID, v.Tags)
	InsertGroup(tx, group)
	return vni
}

// GetVPC reads an account's VPC; *vpc.NotFoundError.
func GetVPC(ctx context.Context, tx *store.Tx, a ids.Account, id ids.VPC) (VPC, error) {
	v, found, err := tx.Get(ctx, vpcKey(a, id).Base)
	if err != nil {
		return VPC{}, err
	}
	if !found {
		return VPC{}, &vpc.NotFoundError{Kind: vpc.KindVPC, ID: string(id)}
	}
	return DecodeVPC(v)
}

// UpdateVPC changes a VPC's attributes.
func UpdateVPC(ctx context.Context, tx *store.Tx, a ids.Account, id ids.VPC, change func(*VPC)) error {
	v, err := GetVPC(ctx, tx, a, id)
	if err != nil {
		return err
	}
	change(&v)
	return rewrite(ctx, tx, vpcKey(a, id), encodeVPC(v))
}

// rewrite replaces a row that the transaction has read, unless a newer program wrote it.
func rewrite(ctx context.Context, tx *store.Tx, k store.Template, v any, bind ...row.Field) error {
	old, _, err := tx.Get(ctx, k.Base)
	if err != nil {
		return err
	}
	if err := row.Rewritable(old.Bytes, v); err != nil {
		return err
	}
	tx.Put(k, row.Encode(v, bind...))
	return nil
}

// DeleteVPC removes a VPC with what was made with it; *vpc.NotFoundError, *vpc.DependencyError. With more set, the
// transaction only removed a part of the VPC's identities: commit it and call again in another.
func DeleteVPC(ctx context.Context, tx *store.Tx, a ids.Account, id ids.VPC) (more bool, err error) {
	v, err := GetVPC(ctx, tx, a, id)
	if err != nil {
		return false, err
	}
	if err := checkUnused(ctx, tx, v); err != nil {
		return false, err
	}
	identities, err := tx.Range(ctx, under(prefix(FamilyIdentity, id), retireBatch+1))
	if err != nil {
		return false, err
	}
	inUse := &vpc.DependencyError{Kind: vpc.KindVPC, ID: string(id)}
	for _, kv := range identities[:min(len(identities), retireBatch)] {
		identity, err := DecodeIdentity(kv.Value)
		if err != nil {
			return false, err
		}
		retire(tx, identity, inUse)
	}
	if len(identities) > retireBatch {
		return true, nil
	}
	if err := removeGroup(ctx, tx, a, v.DefaultGroup); err != nil {
		return false, err
	}
	removeVPC(tx, v)
	dispatchrows.Drop(tx, host.DocVPC(id)) // without subnets no host follows it
	return false, nil
}

func removeVPC(tx *store.Tx, v VPC) {
	tx.Delete(vpcKey(v.Account, v.ID))
	tx.Delete(key(familyRouteTable, v.Account, v.MainRouteTable))
	tx.Delete(key(familyACL, v.Account, v.DefaultACL))
	tx.Delete(key(familyIdentityLast, v.ID))
	gone := prefix(familyRetired, v.ID)
	tx.DeleteRange(gone, store.PrefixEnd(gone))
	tagrows.Delete(tx, v.Account, v.ID)
	tagrows.Delete(tx, v.Account, v.MainRouteTable)
	tagrows.Delete(tx, v.Account, v.DefaultACL)
	accountrows.Refund(tx, v.Account, account.QuotaVPCs, 1)
}

// checkUnused returns *vpc.DependencyError for a VPC with subnets or groups other than its default one.
func checkUnused(ctx context.Context, tx *store.Tx, v VPC) error {
	var users []vpc.Dependent
	subnets, err := tx.Range(ctx, under(prefix(familySubnetAt, v.ID), vpc.MaxDependents))
	if err != nil {
		return err
	}
	for _, kv := range subnets {
		at, err := decode[subnetAtRow](kv.Value)
		if err != nil {
			return err
		}
		users = append(users, vpc.Dependent{Kind: vpc.KindSubnet, ID: string(at.ID)})
	}
	groups, err := tx.Range(ctx, under(prefix(familyGroupName, v.ID), vpc.MaxDependents+1))
	if err != nil {
		return err
	}
	for _, kv := range groups {
		if id := string(kv.Value.Bytes); id != string(v.DefaultGroup) {
			users = append(users, vpc.Dependent{Kind: vpc.KindGroup, ID: id})
		}
	}
	if len(users) == 0 {
		return nil
	}
	return &vpc.DependencyError{Kind: vpc.KindVPC, ID: string(v.ID), Dependents: users[:min(len(users), vpc.MaxDependents)]}
}

// under is the range of the rows below a prefix, at most limit.
func under(p []byte, limit int) store.RangeOptions {
	return store.RangeOptions{Begin: p, End: store.PrefixEnd(p), Limit: limit}
}

// InsertSubnet writes a new subnet and its address pool, and returns it with its zone: an empty one becomes the one of
// zones with the fewest subnets of the VPC. *vpc.NotFoundError, *vpc.RangeError, *vpc.ConflictError, *vpc.LimitError.
func InsertSubnet(ctx context.Context, tx *store.Tx, s Subnet, zones []string) (Subnet, error) {
	v, err := GetVPC(ctx, tx, s.Account, s.VPC)
	if err != nil {
		return s, err
	}
	return InsertSubnetOf(ctx, tx, v, s, zones)
}

// InsertSubnetOf is InsertSubnet for a VPC that the caller has read, or writes in the same transaction.
func InsertSubnetOf(ctx context.Context, tx *store.Tx, v VPC, s Subnet, zones []string) (Subnet, error) {
	if s.CIDR.Bits() < v.CIDR.Bits() || !v.CIDR.Contains(s.CIDR.Addr()) {
		return s, &vpc.RangeError{Kind: vpc.KindSubnet, CIDR: s.CIDR, Reason: "it is not within the VPC's range " + v.CIDR.String()}
	}
	there, err := subnetsOf(ctx, tx, s.VPC)
	if err != nil {
		return s, err
	}
	if err := checkRoom(s, there); err != nil {
		return s, err
	}
	if s.Zone == "" {
		s.Zone = emptiest(zones, there)
	}
	tx.Put(subnetKey(s.Account, s.ID), row.Encode(encodeSubnet(s)))
	tx.Put(key(familySubnetAt, s.VPC, firstAddress(s.CIDR)), row.Encode(subnetAtRow{ID: s.ID, CIDR: s.CIDR.String(), Zone: s.Zone}))
	size := addresses(s.CIDR)
	tx.CreatePool(pool(s.ID), size, 0, vpc.RouterOffset, vpc.ResolverOffset, 3, size-1)
	tagrows.Insert(tx, s.Account, s.ID, s.Tags)
	return s, nil
}

// addresses counts the addresses of a range.
func addresses(p netip.Prefix) uint64 { return 1 << (32 - p.Bits()) }

func subnetsOf(ctx context.Context, tx *store.Tx, v ids.VPC) ([]subnetAtRow, error) {
	rows, err := tx.Range(ctx, under(prefix(familySubnetAt, v), 0))
	if err != nil {
		return nil, err
	}
	out := make([]subnetAtRow, len(rows))
	for i, kv := range rows {
		if out[i], err = decode[subnetAtRow](kv.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func checkRoom(s Subnet, there []subnetAtRow) error {
	if len(there) >= vpc.MaxSubnetsPerVPC {
		return &vpc.LimitError{Limit: vpc.LimitSubnetsPerVPC, ID: string(s.VPC), Max: vpc.MaxSubnetsPerVPC}
	}
	for _, other := range there {
		cidr, err := parseCIDR(other.CIDR)
		if err != nil {
			return err
		}
		if cidr.Overlaps(s.CIDR) {
			return &vpc.ConflictError{CIDR: s.CIDR, With: other.ID}
		}
	}
	return nil
}

// emptiest returns the zone with the fewest subnets, the first of equals.
func emptiest(zones []string, there []subnetAtRow) string {
	counts := map[string]int{}
	for _, s := range there {
		counts[s.Zone]++
	}
	best := zones[0]
	for _, z := range zones[1:] {
		if counts[z] < counts[best] {
			best = z
		}
	}
	return best
}

// GetSubnet reads an account's subnet; *vpc.NotFoundError.
func GetSubnet(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Subnet) (Subnet, error) {
	v, found, err := tx.Get(ctx, subnetKey(a, id).Base)
	if err != nil {
		return Subnet{}, err
	}
	if !found {
		return Subnet{}, &vpc.NotFoundError{Kind: vpc.KindSubnet, ID: string(id)}
	}
	return DecodeSubnet(v)
}

// UpdateSubnet changes a subnet's attributes.
func UpdateSubnet(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Subnet, change func(*Subnet)) error {
	s, err := GetSubnet(ctx, tx, a, id)
	if err != nil {
		return err
	}
	change(&s)
	return rewrite(ctx, tx, subnetKey(a, id), encodeSubnet(s))
}

// DeleteSubnet removes a subnet; *vpc.NotFoundError, or *vpc.DependencyError unless all of its addresses are free.
func DeleteSubnet(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Subnet) error {
	s, err := GetSubnet(ctx, tx, a, id)
	if err != nil {
		return err
	}
	inUse := store.Else(&vpc.DependencyError{Kind: vpc.KindSubnet, ID: string(id)})
	all := int64(addresses(s.CIDR) - vpc.ReservedPerSubnet)
	tx.Expect(store.RawKey(store.FreeKey(pool(id))), store.IntEquals(all), inUse)
	tx.DeletePool(pool(id))
	tx.Delete(subnetKey(a, id))
	tx.Delete(key(familySubnetAt, s.VPC, firstAddress(s.CIDR)))
	tagrows.Delete(tx, a, id)
	return nil
}

// document is a VPC's document on the host link.
func document(v ids.VPC) dispatchrows.Doc { return dispatchrows.Named(host.DocVPC(v)) }
