package vpcrows

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
)

// retireBatch bounds the identities that one transaction retires, each with at most four guards.
const retireBatch = 64

// Retired is a number whose set is gone, and which hosts may still know. It may be given to another set once every host
// with an interface in the VPC has applied the VPC's identities and mappings up to these sequences.
type Retired struct {
	VPC                        ids.VPC
	Number                     uint16
	IdentitiesSeq, MappingsSeq uint64
}

func (r Retired) key() store.Template {
	return key(familyRetired, r.VPC, int64(r.IdentitiesSeq), int64(r.Number))
}

// InternRequest says which set is wanted, and what it may cost.
type InternRequest struct {
	Account ids.Account
	VPC     ids.VPC
	Groups  []ids.SecurityGroup // sorted
	// Max is the highest number. Once it was given, only Reuse is left; nil: nothing is.
	Max   int
	Reuse *Retired
}

// InternIdentity returns the identity of a set of groups of one VPC and makes it if it is new; *vpc.NotFoundError for a
// group, *vpc.LimitError, vpc.ErrStale when Reuse was used by another.
func InternIdentity(ctx context.Context, tx *store.Tx, r InternRequest) (vpc.Identity, error) {
	for _, id := range r.Groups {
		g, err := GetGroup(ctx, tx, r.Account, id)
		if err == nil && g.VPC != r.VPC {
			err = &vpc.NotFoundError{Kind: vpc.KindGroup, ID: string(id)}
		}
		if err != nil {
			return vpc.Identity{}, err
		}
	}
	identity := vpc.Identity{VPC: r.VPC, Groups: r.Groups}
	ofKey := key(familyIdentityOf, r.VPC, set(r.Groups))
	known, found, err := tx.Get(ctx, ofKey.Base)
	if err != nil {
		return vpc.Identity{}, err
	}
	if found {
		identity.Number = uint16(known.Int)
		return identity, nil
	}
	if identity.Number, err = freeNumber(ctx, tx, r); err != nil {
		return vpc.Identity{}, err
	}
	tx.Put(ofKey, store.Int(int64(identity.Number)))
	insertIdentity(tx, identity)
	return identity, nil
}

// freeNumber takes a number that was never given or, when there is none, the one to be used again.
func freeNumber(ctx context.Context, tx *store.Tx, r InternRequest) (uint16, error) {
	last, err := LastIdentity(ctx, tx, r.VPC)
	if err != nil {
		return 0, err
	}
	if last < r.Max {
		tx.Put(key(familyIdentityLast, r.VPC), store.Int(int64(last+1)))
		return uint16(last + 1), nil
	}
	if r.Reuse == nil {
		return 0, &vpc.LimitError{Limit: vpc.LimitIdentitiesPerVPC, ID: string(r.VPC), Max: r.Max}
	}
	_, found, err := tx.Get(ctx, r.Reuse.key().Base)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, vpc.ErrStale
	}
	tx.Delete(r.Reuse.key())
	return r.Reuse.Number, nil
}

// LastIdentity reads the highest number that a VPC's identities ever had.
func LastIdentity(ctx context.Context, r store.Reader, v ids.VPC) (int, error) {
	last, _, err := r.Get(ctx, key(familyIdentityLast, v).Base)
	return int(last.Int), err
}

// RetiredIdentities reads the numbers that await their hosts, at most limit, the first retired first.
func RetiredIdentities(ctx context.Context, r store.Reader, v ids.VPC, limit int) ([]Retired, error) {
	kvs, err := r.Range(ctx, under(prefix(familyRetired, v), limit))
	if err != nil {
		return nil, err
	}
	out := make([]Retired, len(kvs))
	for i, kv := range kvs {
		if out[i], err = decodeRetired(kv); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func decodeRetired(kv store.KV) (Retired, error) {
	_, parts, err := ParseKey(kv.Key)
	if err != nil {
		return Retired{}, err
	}
	if len(parts) != 3 {
		return Retired{}, fmt.Errorf("parse vpc key %q: %d elements", kv.Key, len(parts))
	}
	v, _ := parts[0].(string)
	seq, ok := parts[1].(uint64)
	number, isNumber := parts[2].(uint64)
	if !ok || !isNumber {
		return Retired{}, fmt.Errorf("parse vpc key %q: no sequence and number", kv.Key)
	}
	row, err := decode[retiredRow](kv.Value)
	return Retired{VPC: ids.VPC(v), Number: uint16(number), IdentitiesSeq: seq, MappingsSeq: row.MappingsSeq}, err
}

func insertIdentity(tx *store.Tx, i vpc.Identity) {
	tx.Put(identityKey(i.VPC, i.Number), row.Encode(identityRow{VPC: i.VPC, Number: i.Number, Groups: i.Groups}))
	tx.Put(identityUseKey(i.VPC, i.Number), store.Int(0))
	for _, g := range i.Groups {
		tx.Put(key(familyIdentityWith, g, i.Number), store.Bytes(nil))
	}
	payload := store.Bytes(host.Encode(host.Identity{Number: i.Number, Groups: i.Groups}))
	dispatchrows.Put(tx, document(i.VPC), host.SectionIdentities, identityName(i.Number), payload)
}

func identityName(number uint16) string { return strconv.Itoa(int(number)) }

// retire removes an identity; the transaction fails with inUse if an interface has it. Its number waits for the hosts
// that may still know it.
func retire(tx *store.Tx, i vpc.Identity, inUse error) {
	tx.Expect(identityUseKey(i.VPC, i.Number), store.IntEquals(0), store.Else(inUse))
	tx.Delete(identityKey(i.VPC, i.Number))
	tx.Delete(identityUseKey(i.VPC, i.Number))
	tx.Delete(key(familyIdentityOf, i.VPC, set(i.Groups)))
	for _, g := range i.Groups {
		tx.Delete(key(familyIdentityWith, g, i.Number))
	}
	gone := dispatchrows.Delete(tx, document(i.VPC), host.SectionIdentities, identityName(i.Number))
	// No interface has the identity: what mappings had it, left their section at the latest now.
	mappings := dispatchrows.Mark(tx, document(i.VPC), host.SectionMappings)
	tx.Put(key(familyRetired, i.VPC, gone, int64(i.Number)), row.Encode(retiredRow{}, row.Bind(retiredRowMappingsSeq, mappings)))
}

// retireWith removes the identities that hold a group, at most retireBatch.
func retireWith(ctx context.Context, tx *store.Tx, g vpc.SecurityGroup, inUse error) (more bool, err error) {
	rows, err := tx.Range(ctx, under(prefix(familyIdentityWith, g.ID), retireBatch+1))
	if err != nil {
		return false, err
	}
	for _, kv := range rows[:min(len(rows), retireBatch)] {
		_, parts, err := ParseKey(kv.Key)
		if err != nil {
			return false, err
		}
		v, _, err := tx.Get(ctx, key(FamilyIdentity, g.VPC, parts[1]).Base)
		if err != nil {
			return false, err
		}
		i, err := DecodeIdentity(v)
		if err != nil {
			return false, err
		}
		retire(tx, i, inUse)
	}
	return len(rows) > retireBatch, nil
}

// UnusedIdentities looks at retireBatch identities with numbers above after, and returns those that no interface has, and
// the last number that it looked at, 0 at the end. Pass them to RetireIdentities.
func UnusedIdentities(ctx context.Context, r store.Reader, v ids.VPC, after uint16) (unused []vpc.Identity, last uint16, err error) {
	span := under(prefix(familyIdentityUse, v), retireBatch)
	if after > 0 {
		span.Begin = append(identityUseKey(v, after).Base, 0)
	}
	rows, err := r.Range(ctx, span)
	if err != nil {
		return nil, 0, err
	}
	for _, kv := range rows {
		_, parts, err := ParseKey(kv.Key)
		if err != nil {
			return nil, 0, err
		}
		number, _ := parts[1].(uint64)
		last = uint16(number)
		if kv.Value.Int != 0 {
			continue
		}
		value, _, err := r.Get(ctx, identityKey(v, last).Base)
		if err != nil {
			return nil, 0, err
		}
		i, err := DecodeIdentity(value)
		if err != nil {
			return nil, 0, err
		}
		unused = append(unused, i)
	}
	if len(rows) < retireBatch {
		last = 0
	}
	return unused, last, nil
}

// RetireIdentities retires identities without a group's end, reading nothing. The transaction fails with vpc.ErrStale when
// one of them is gone or in use by then.
func RetireIdentities(tx *store.Tx, unused []vpc.Identity) {
	for _, i := range unused {
		tx.Expect(key(familyIdentityOf, i.VPC, set(i.Groups)), store.IntEquals(int64(i.Number)), store.Else(vpc.ErrStale))
		retire(tx, i, vpc.ErrStale)
	}
}
