package computerows

import (
	"context"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

// RegisterHost makes a host's row, counters and fleet entry agree with what the host says of itself. Capacity changes by
// the difference: what is placed stays placed.
func RegisterHost(ctx context.Context, tx *store.Tx, info host.Info) error {
	old, found, err := read[Host](ctx, tx, hostKey(info.ID))
	if err != nil || (found && old.Info == info) {
		return err
	}
	h := Host{Info: info, Draining: old.Draining, Silent: old.Silent}
	before := old.Capacity()
	if !found {
		before = fit.Size{}
	}
	tx.Guard(fit.Resize(info.ID, h.Capacity().Sub(before)))
	tx.Put(hostKey(info.ID), row.Encode(h))
	if !found || old.Info.Underlay != info.Underlay || old.Info.Zone != info.Zone {
		entry := host.FleetHost{ID: info.ID, Underlay: info.Underlay, Zone: info.Zone}
		dispatchrows.Put(tx, dispatchrows.Named(host.DocFleet), host.SectionHosts, string(info.ID), store.Bytes(host.Encode(entry)))
	}
	return nil
}

// Fence drains a host and makes it stand down: when it returns, it starts nothing from documents of before.
func Fence(ctx context.Context, tx *store.Tx, id ids.Host) error {
	if err := Drain(ctx, tx, id, true); err != nil {
		return err
	}
	dispatchrows.RaiseEpoch(tx, host.DocHost(id))
	return nil
}

// NoteSilence keeps the transition of a host that fell silent, or is heard again. A host without a row is nothing.
func NoteSilence(ctx context.Context, tx *store.Tx, id ids.Host, silent bool) error {
	h, found, err := read[Host](ctx, tx, hostKey(id))
	if err != nil || !found || h.Silent == silent {
		return err
	}
	h.Silent = silent
	tx.Put(hostKey(id), row.Encode(h))
	return nil
}

// Drain takes a host's slots out of reach of new placements, or brings them back. Launches in flight meet it at their
// commit. What is placed stays.
func Drain(ctx context.Context, tx *store.Tx, id ids.Host, drain bool) error {
	h, found, err := read[Host](ctx, tx, hostKey(id))
	switch {
	case err != nil:
		return err
	case !found:
		return &compute.NotFoundError{Kind: "host", IDs: []string{string(id)}}
	case h.Draining == drain:
		return nil
	}
	weight := fit.Size{Slots: fit.DrainWeight}
	if drain {
		weight.Slots = -fit.DrainWeight
	}
	h.Draining = drain
	tx.Guard(fit.Resize(id, weight))
	tx.Put(hostKey(id), row.Encode(h))
	return nil
}
