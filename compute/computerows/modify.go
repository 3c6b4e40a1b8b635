package computerows

import (
	"context"
	"fmt"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// Modify changes attributes of one instance. groups is what Prepare made of c.Groups, and nil without them.
func (m *Moment) Modify(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Instance, c compute.Attributes, groups *vpc.Prepared) error {
	i, err := m.load(ctx, tx, a, id)
	if err != nil {
		return err
	}
	if i.State == compute.ShuttingDown || i.State == compute.Terminated {
		return &compute.StateError{Instance: id, State: i.State, Verb: "modified"}
	}
	if c.UserData != nil || c.Type != nil {
		if _, err := lifecycle.Next(id, i.State, lifecycle.ModifyStopped); err != nil {
			return err
		}
	}
	if c.Type != nil {
		if err := i.resize(ctx, tx, *c.Type); err != nil {
			return err
		}
	}
	if groups != nil || c.SourceDestCheck != nil {
		if err := i.modifyInterface(ctx, tx, c.SourceDestCheck, groups); err != nil {
			return err
		}
	}
	set(&i.UserData, c.UserData)
	set(&i.Protected, c.DisableAPITermination)
	set(&i.OnShutdown, c.ShutdownBehavior)
	if c.Metadata != nil {
		i.Metadata = Metadata(*c.Metadata)
	}
	if c.DeleteRootOnTerminate != nil {
		v, err := i.rootVolume(ctx, tx)
		if err != nil {
			return err
		}
		i.KeepRoot = !*c.DeleteRootOnTerminate
		v.Keep = i.KeepRoot
		tx.Put(volumeKey(i.RootVolume), row.Encode(v))
	}
	i.put(tx)
	if groups != nil || c.Type != nil || c.UserData != nil || c.Metadata != nil || c.DeleteRootOnTerminate != nil {
		i.tell(tx)
	}
	return nil
}

func (i *Instance) modifyInterface(ctx context.Context, tx *store.Tx, check *bool, groups *vpc.Prepared) error {
	change := vpcrows.InterfaceChange{SourceDestCheck: check}
	if groups != nil {
		change.Groups, i.GroupNames = &groups.Identity, groups.Names
	}
	return vpcrows.ModifyInterface(ctx, tx, i.Account, i.Interface, change)
}

// resize makes a stopped instance another type. Its disk is on its host, so the host must have room for the difference;
// the quota of vCPUs is charged when it starts. *compute.RequestError, *compute.CapacityError.
func (i *Instance) resize(ctx context.Context, tx *store.Tx, name string) error {
	kind, known := compute.TypeNamed(name)
	if !known {
		return &compute.RequestError{Parameter: "InstanceType", Value: name, Reason: "no such type; DescribeInstanceTypes lists them"}
	}
	p, found, err := read[Placement](ctx, tx, placementKey(i.Host, i.ID))
	if err != nil {
		return err
	}
	if !found || p.Releasing {
		return fmt.Errorf("resize %s: it has no placement on %s", i.ID, i.Host)
	}
	size := fit.Of(kind, i.RootDiskGiB)
	full := &compute.CapacityError{Type: name, Zone: i.Zone, Reason: "the instance's host, which has its disk, has not enough left for the difference"}
	more, less := size.Sub(i.Size).Split()
	tx.Guard(fit.Take(i.Host, more), store.Else(full))
	tx.Guard(fit.Return(i.Host, less))
	p.Size = size
	tx.Put(placementKey(i.Host, i.ID), row.Encode(p))
	i.Type, i.VCPUs, i.Size = kind.Name, kind.VCPUs, size
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
