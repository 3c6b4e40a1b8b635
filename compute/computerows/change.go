package computerows

import (
	"context"
	"io"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/svc/op"
)

// Moment is when a transaction happens and where its random ids come from.
type Moment struct {
	Now    time.Time
	Random io.Reader
}

// load reads an instance that a client of the account may see.
func (m *Moment) load(ctx context.Context, r store.Reader, a ids.Account, id ids.Instance) (Instance, error) {
	i, found, err := read[Instance](ctx, r, instanceKey(id))
	if err != nil {
		return i, err
	}
	if !found || i.Account != a || !i.Visible(m.Now) {
		return i, &compute.NotFoundError{Kind: "instance", IDs: []string{string(id)}}
	}
	return i, nil
}

// Judge says what a verb would do to an instance as its row is now, or why it may not.
func (m *Moment) Judge(ctx context.Context, r store.Reader, a ids.Account, id ids.Instance, v lifecycle.Verb) (Instance, compute.StateChange, error) {
	i, err := m.load(ctx, r, a, id)
	if err != nil {
		return i, compute.StateChange{}, err
	}
	change := compute.StateChange{Instance: id, Previous: i.State}
	change.Current, err = lifecycle.Next(id, i.State, v)
	if err == nil && v == lifecycle.Terminate && i.Protected && change.Current != change.Previous {
		err = &compute.ProtectedError{Instance: id}
	}
	return i, change, err
}

// Verb applies a client's verb to one instance, judged on its row as it is now. force matters to Stop only.
func (m *Moment) Verb(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Instance, v lifecycle.Verb, force bool) (compute.StateChange, error) {
	i, change, err := m.Judge(ctx, tx, a, id, v)
	if err != nil {
		return change, err
	}
	switch {
	case v == lifecycle.Reboot:
		return change, m.reboot(ctx, tx, &i)
	case v == lifecycle.Stop && force && i.State == compute.Stopping && i.Power != host.PowerKill:
		i.Power = host.PowerKill
		i.put(tx)
		i.tell(tx)
		return change, nil
	case change.Current == change.Previous:
		return change, nil
	}
	return change, m.apply(ctx, tx, &i, v, force)
}

func (m *Moment) apply(ctx context.Context, tx *store.Tx, i *Instance, v lifecycle.Verb, force bool) error {
	switch v {
	case lifecycle.Start:
		return m.start(ctx, tx, i)
	case lifecycle.Stop:
		return m.stop(ctx, tx, i, force)
	}
	if err := m.begin(ctx, tx, i, "TerminateInstances"); err != nil {
		return err
	}
	return m.end(ctx, tx, i, compute.ReasonUserShutdown, m.byUser())
}

// begin makes a new operation the instance's, in place of the one before.
func (m *Moment) begin(ctx context.Context, tx *store.Tx, i *Instance, kind string) error {
	before := i.Operation
	i.Operation = op.NewID(m.Now, m.Random)
	op.Begin(tx, i.operation(kind, m.Now))
	return op.Finish(ctx, tx, before, op.Superseded, "by "+kind+" "+string(i.Operation), m.Now)
}

func (m *Moment) start(ctx context.Context, tx *store.Tx, i *Instance) error {
	if err := m.begin(ctx, tx, i, "StartInstances"); err != nil {
		return err
	}
	accountrows.Charge(tx, i.Account, account.QuotaVCPUs, int64(i.VCPUs))
	i.Generation++
	i.Power, i.Attempt = host.PowerRun, 1
	i.LaunchedMs, i.AttemptMs = m.Now.UnixMilli(), m.Now.UnixMilli()
	m.enter(i, compute.Pending, compute.ReasonPending, "")
	i.put(tx)
	i.tell(tx)
	return nil
}

func (m *Moment) stop(ctx context.Context, tx *store.Tx, i *Instance, force bool) error {
	if err := m.begin(ctx, tx, i, "StopInstances"); err != nil {
		return err
	}
	accountrows.Refund(tx, i.Account, account.QuotaVCPUs, int64(i.VCPUs))
	i.Power = host.PowerStop
	if force {
		i.Power = host.PowerKill
	}
	m.enter(i, compute.Stopping, compute.ReasonUserShutdown, m.byUser())
	i.put(tx)
	i.tell(tx)
	return nil
}

func (m *Moment) reboot(ctx context.Context, tx *store.Tx, i *Instance) error {
	if err := m.begin(ctx, tx, i, "RebootInstances"); err != nil {
		return err
	}
	i.RebootID, i.Rebooted = string(i.Operation), false
	i.put(tx)
	i.tell(tx)
	return nil
}

// end makes the instance absent from what its host is to run, and returns quota. Capacity, address and interface wait
// for the host's confirmation (Release). No network is needed.
func (m *Moment) end(ctx context.Context, tx *store.Tx, i *Instance, why compute.Reason, transition string) error {
	if lifecycle.ChargesVCPU(i.State) {
		accountrows.Refund(tx, i.Account, account.QuotaVCPUs, int64(i.VCPUs))
	}
	accountrows.Refund(tx, i.Account, account.QuotaInstances, 1)
	if err := m.leave(ctx, tx, i); err != nil {
		return err
	}
	m.enter(i, compute.ShuttingDown, why, transition)
	i.put(tx)
	if i.KeepRoot {
		return nil
	}
	v, err := i.rootVolume(ctx, tx)
	if err != nil {
		return err
	}
	if v.Charged {
		accountrows.Refund(tx, i.Account, account.QuotaVolumes, 1)
	}
	v.Deleting, v.Charged = true, false
	tx.Put(volumeKey(v.ID), row.Encode(v))
	return nil
}

// enter changes the state.
func (m *Moment) enter(i *Instance, s compute.State, why compute.Reason, transition string) {
	i.State, i.Reason, i.Transition, i.TransitionMs = s, Reason(why), transition, m.Now.UnixMilli()
}

// byUser is EC2's text for a transition that a user asked for.
func (m *Moment) byUser() string {
	return "User initiated (" + m.Now.UTC().Format("2006-01-02 15:04:05") + " GMT)"
}

func (i *Instance) put(tx *store.Tx) { tx.Put(instanceKey(i.ID), row.Encode(*i)) }

// tell writes the instance's item into its host's document.
func (i *Instance) tell(tx *store.Tx) {
	dispatchrows.Put(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInstances, string(i.ID),
		store.Bytes(host.Encode(i.Item())), i.needs())
}
