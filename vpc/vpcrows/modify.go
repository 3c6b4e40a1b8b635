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

// InterfaceChange holds what is to be different about an interface; nil leaves it.
type InterfaceChange struct {
	Groups          *vpc.Identity // of the interface's VPC, as Prepare found it
	SourceDestCheck *bool
}

// ModifyInterface changes an attached interface. Its host and, for groups, the VPC's other hosts are told in this
// transaction. *vpc.NotFoundError, also for one that is releasing; vpc.ErrStale if Prepare has to be called again.
func ModifyInterface(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Interface, c InterfaceChange) error {
	i, found, err := getInterface(ctx, tx, a, id)
	if err != nil {
		return err
	}
	if !found || i.State != vpc.InterfaceInUse || (c.Groups != nil && i.VPC != c.Groups.VPC) {
		return &vpc.NotFoundError{Kind: vpc.KindInterface, ID: string(id)}
	}
	if c.SourceDestCheck != nil {
		i.SourceDestCheck = *c.SourceDestCheck
	}
	if c.Groups != nil && i.Identity != c.Groups.Number {
		i.regroup(tx, *c.Groups)
	}
	needs := dispatchrows.Topics(host.DocVPC(i.VPC), host.DocFleet)
	dispatchrows.Put(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInterfaces, string(id), row.Encode(i.hostInterface()), needs)
	return rewrite(ctx, tx, interfaceKey(a, id), i)
}

// regroup counts the new identity and tells the VPC's hosts of it.
func (r *interfaceRow) regroup(tx *store.Tx, to vpc.Identity) {
	tx.Expect(identityKey(r.VPC, to.Number), store.Exists(), store.Else(vpc.ErrStale))
	tx.Add(identityUseKey(r.VPC, to.Number), 1, 1, math.MaxInt64)
	tx.Add(identityUseKey(r.VPC, r.Identity), -1, 0, math.MaxInt64)
	r.Identity, r.Groups = to.Number, to.Groups
	dispatchrows.Put(tx, document(r.VPC), host.SectionMappings, string(r.ID), row.Encode(r.mapping()))
}
