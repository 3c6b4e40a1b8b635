package server

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// insertDefaultSubnet makes a zone's default subnet in a default VPC: the block of the zone's place in the list or, when
// that is taken, the first free one. Without room there is none, and no error.
func (s *Service) insertDefaultSubnet(ctx context.Context, tx *store.Tx, v vpcrows.VPC, zone string, place int) error {
	subnet := s.newSubnet(v.Account, v.ID, netip.Prefix{}, zone)
	subnet.Default = true
	for n := range maxZones {
		block := uint64((place + n) % maxZones)
		subnet.CIDR = netip.PrefixFrom(vpcrows.AddressAt(v.CIDR, block<<(32-vpc.DefaultSubnetBits)), vpc.DefaultSubnetBits)
		_, err := vpcrows.InsertSubnetOf(ctx, tx, v, subnet, s.zones)
		if taken := (*vpc.ConflictError)(nil); errors.As(err, &taken) {
			continue
		}
		if full := (*vpc.LimitError)(nil); errors.As(err, &full) {
			return nil
		}
		if err != nil {
			return err
		}
		vpcrows.PutDefaultZone(tx, v.Account, zone)
		return nil
	}
	return nil
}

// addZones gives every default VPC its subnet in each zone that it never had one in: zones come by a restart with another
// list. What an account deleted is not made again.
func (s *Service) addZones(ctx context.Context) error {
	var lacking map[ids.Account][]string
	err := s.db.View(ctx, func(r store.Reader) (err error) {
		lacking, err = vpcrows.WithoutDefaultZone(ctx, r, s.zones)
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range slices.SortedFunc(maps.Keys(lacking), cmp.Compare) {
		for _, zone := range lacking[a] {
			_, err := s.transact(ctx, "add default subnet of "+string(a)+" in "+zone, func(tx *store.Tx) error {
				return s.addZone(ctx, tx, a, zone)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) addZone(ctx context.Context, tx *store.Tx, a ids.Account, zone string) error {
	d, err := vpcrows.GetDefault(ctx, tx, a)
	if err != nil {
		return err
	}
	had, err := vpcrows.HasDefaultZone(ctx, tx, a, zone)
	if err != nil || had {
		return err
	}
	v, err := vpcrows.GetVPC(ctx, tx, a, d.VPC)
	if gone := (*vpc.NotFoundError)(nil); errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return err
	}
	// Before zones were noted, the subnet itself was all there was.
	there, err := vpcrows.HasDefaultSubnet(ctx, tx, v, zone)
	if err != nil {
		return err
	}
	if there {
		vpcrows.PutDefaultZone(tx, a, zone)
		return nil
	}
	return s.insertDefaultSubnet(ctx, tx, v, zone, slices.Index(s.zones, zone))
}
