package vpcrows

import (
	"context"
	"slices"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// PutDefaultZone notes that the account's default VPC has, or had, its default subnet in the zone.
func PutDefaultZone(tx *store.Tx, a ids.Account, zone string) {
	tx.Put(key(familyDefaultZone, a, zone), store.Bytes(nil))
}

// HasDefaultZone says whether that was noted.
func HasDefaultZone(ctx context.Context, tx *store.Tx, a ids.Account, zone string) (bool, error) {
	_, found, err := tx.Get(ctx, key(familyDefaultZone, a, zone).Base)
	return found, err
}

// WithoutDefaultZone returns the accounts that have a default VPC, or had one, and lack the note for one of the zones, with
// the zones that they lack.
func WithoutDefaultZone(ctx context.Context, r store.Reader, zones []string) (map[ids.Account][]string, error) {
	lacking := map[ids.Account][]string{}
	err := check.Scan(ctx, r, prefix(FamilyDefault), func(kv store.KV) error {
		d, err := decode[defaultRow](kv.Value)
		if err == nil && d.VPC != "" {
			lacking[d.Account] = slices.Clone(zones)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = check.Scan(ctx, r, prefix(familyDefaultZone), func(kv store.KV) error {
		_, parts, err := ParseKey(kv.Key)
		if err != nil {
			return err
		}
		account, _ := parts[0].(string)
		zone, _ := parts[1].(string)
		a := ids.Account(account)
		lacking[a] = slices.DeleteFunc(lacking[a], func(z string) bool { return z == zone })
		if len(lacking[a]) == 0 {
			delete(lacking, a)
		}
		return nil
	})
	return lacking, err
}

// HasDefaultSubnet says whether a VPC has a default subnet in the zone now.
func HasDefaultSubnet(ctx context.Context, tx *store.Tx, v VPC, zone string) (bool, error) {
	there, err := subnetsOf(ctx, tx, v.ID)
	if err != nil {
		return false, err
	}
	for _, at := range there {
		if at.Zone != zone {
			continue
		}
		s, err := GetSubnet(ctx, tx, v.Account, at.ID)
		if err != nil || s.Default {
			return s.Default, err
		}
	}
	return false, nil
}
