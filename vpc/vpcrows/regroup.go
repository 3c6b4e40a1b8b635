package vpcrows

import (
	"context"
	"math"

	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
)

// Regroup gives an attached interface the groups of another identity of its VPC, as Prepare found it. Its host and the
// VPC's other hosts are told in this transaction, so no host sees new groups with the old mapping for longer than it takes
// to apply both. *vpc.NotFoundError, also for one that is releasing; vpc.ErrStale if Prepare has to be called again.
func Regroup(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Interface, to vpc.Identity) error {
	i, found, err := getInterface(ctx, tx, a, id)
	if err != nil {
		return err
	}
	if !found || i.State != vpc.InterfaceInUse || i.VPC != to.VPC {
		return &vpc.NotFoundError{Kind: vpc.KindInterface, ID: string(id)}
	}
	if i.Identity == to.Number {
		return nil
	}
	tx.Expect(identityKey(i.VPC, to.Number), store.Exists(), store.Else(vpc.ErrStale))
	tx.Add(identityUseKey(i.VPC, to.Number), 1, 1, math.MaxInt64)
	tx.Add(identityUseKey(i.VPC, i.Identity), -1, 0, math.MaxInt64)
	i.Identity, i.Groups = to.Number, to.Groups
	dispatchrows.Put(tx, document(i.VPC), host.SectionMappings, string(id), row.Encode(i.mapping()))
	needs := dispatchrows.Topics(host.DocVPC(i.VPC), host.DocFleet)
	dispatchrows.Put(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInterfaces, string(id), row.Encode(i.hostInterface()), needs)
	return rewrite(ctx, tx, interfaceKey(a, id), i)
}
