package vpcrows

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

func checkTopology(ctx context.Context, s *rows, report finding) error {
	last, _, err := s.r.Get(ctx, prefix(familyVNI))
	if err != nil {
		return err
	}
	for _, row := range s.misplaced {
		report("rows", row)
	}
	seen := map[uint32]ids.VPC{}
	for id, v := range s.vpcs {
		if other, twice := seen[v.VNI]; twice {
			report(string(id), fmt.Sprintf("has VNI %d, as %s has", v.VNI, other))
		}
		if v.VNI == 0 || int64(v.VNI) > last.Int {
			report(string(id), fmt.Sprintf("has VNI %d, the last given is %d", v.VNI, last.Int))
		}
		seen[v.VNI] = id
		if g, found := s.groups[v.DefaultGroup]; !found || g.VPC != id || !g.Default {
			report(string(id), "has no default group")
		}
		if s.dhcp[v.DHCPOptions].Account != v.Account {
			report(string(id), "has DHCP options that are not the account's: "+string(v.DHCPOptions))
		}
		for _, own := range [][]byte{prefix(familyRouteTable, v.Account, v.MainRouteTable), prefix(familyACL, v.Account, v.DefaultACL)} {
			if of, _, err := s.r.Get(ctx, own); err != nil || string(of.Bytes) != string(id) {
				report(string(id), fmt.Sprintf("is not found by its table or list %q (%v)", own, err))
			}
		}
	}
	if err := checkDefaults(ctx, s, report); err != nil {
		return err
	}
	return checkSubnets(ctx, s, report)
}

// checkDefaults: the row of an account's beginning leads to its options and, while that is there, to its default VPC.
func checkDefaults(ctx context.Context, s *rows, report finding) error {
	begun := map[ids.Account]defaultRow{}
	err := check.Scan(ctx, s.r, prefix(FamilyDefault), func(kv store.KV) error {
		d, err := decode[defaultRow](kv.Value)
		if err == nil && !bytes.Equal(kv.Key, prefix(FamilyDefault, d.Account)) {
			report(string(d.Account), fmt.Sprintf("its defaults are under the key %q", kv.Key))
		}
		begun[d.Account] = d
		return err
	})
	if err != nil {
		return err
	}
	for a, d := range begun {
		if s.dhcp[d.DHCPOptions].Account != a {
			report(string(a), "its DHCP options do not exist: "+string(d.DHCPOptions))
		}
	}
	for id, o := range s.dhcp {
		if begun[o.Account].DHCPOptions != id {
			report(string(id), "are not the DHCP options of account "+string(o.Account))
		}
	}
	for id, v := range s.vpcs {
		if v.Default != (begun[v.Account].VPC == id) {
			report(string(id), fmt.Sprintf("says default %t, its account's is %s", v.Default, begun[v.Account].VPC))
		}
	}
	return nil
}

func checkSubnets(ctx context.Context, s *rows, report finding) error {
	at := map[ids.VPC][]Subnet{}
	for id, subnet := range s.subnets {
		v, found := s.vpcs[subnet.VPC]
		if !found || !v.CIDR.Contains(subnet.CIDR.Addr()) || v.CIDR.Bits() > subnet.CIDR.Bits() {
			report(string(id), fmt.Sprintf("range %s is not in VPC %s", subnet.CIDR, subnet.VPC))
		}
		for _, other := range at[subnet.VPC] {
			if other.CIDR.Overlaps(subnet.CIDR) {
				report(string(id), fmt.Sprintf("range %s overlaps %s", subnet.CIDR, other.ID))
			}
		}
		at[subnet.VPC] = append(at[subnet.VPC], subnet)
	}
	indexed, err := list(ctx, s.r, familySubnetAt, decode[subnetAtRow])
	if err != nil {
		return err
	}
	for _, i := range indexed {
		if subnet, found := s.subnets[i.ID]; !found || subnet.CIDR.String() != i.CIDR || subnet.Zone != i.Zone {
			report(string(i.ID), "is indexed by address as what it is not")
		}
	}
	if len(indexed) != len(s.subnets) {
		report("subnets", fmt.Sprintf("%d exist, %d are found by address", len(s.subnets), len(indexed)))
	}
	return nil
}

func checkAddresses(ctx context.Context, s *rows, report finding) error {
	held := map[ids.Subnet]map[netip.Addr]ids.Interface{}
	for id, i := range s.interfaces {
		if held[i.Subnet] == nil {
			held[i.Subnet] = map[netip.Addr]ids.Interface{}
		}
		if other, twice := held[i.Subnet][i.Address]; twice {
			report(string(id), fmt.Sprintf("has address %s, as %s has", i.Address, other))
		}
		held[i.Subnet][i.Address] = id
		if s.subnets[i.Subnet].ID == "" {
			report(string(id), "is in a subnet that does not exist: "+string(i.Subnet))
		} else if _, err := offsetOf(s.subnets[i.Subnet].Subnet, i.Address); err != nil {
			report(string(id), err.Error())
		}
	}
	for id, subnet := range s.subnets {
		taken, err := store.PoolTaken(ctx, s.r, pool(id))
		if err != nil {
			report(string(id), err.Error())
			continue
		}
		for _, offset := range taken {
			address := addressAt(subnet.CIDR, offset)
			if _, err := offsetOf(subnet.Subnet, address); err == nil && held[id][address] == "" {
				report(string(id), fmt.Sprintf("address %s is taken by nobody", address))
			}
			delete(held[id], address)
		}
		for address, i := range held[id] {
			report(string(i), fmt.Sprintf("has address %s, which is free in the pool of %s", address, id))
		}
	}
	return nil
}

func addressAt(p netip.Prefix, offset uint64) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(firstAddress(p)+offset))
	return netip.AddrFrom4(b)
}
