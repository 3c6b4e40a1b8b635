package computerows

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/svc/op"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// Elsewhere is where a launch may be retried.
type Elsewhere struct {
	Candidates []ids.Host // without the host at hand; empty: nowhere
	NoRoom     error
}

// Observe folds a host's report into an instance's state, judged on its row as it is now. Nothing happens when the
// report is history, comes from a host that the instance left, or changes nothing.
func (m *Moment) Observe(ctx context.Context, tx *store.Tx, from ids.Host, r host.InstanceStatus, e Elsewhere) error {
	i, found, err := read[Instance](ctx, tx, instanceKey(r.ID))
	if err != nil || !found || i.Host != from {
		return err
	}
	if err := m.rebooted(ctx, tx, &i, r); err != nil {
		return err
	}
	return m.step(ctx, tx, &i, lifecycle.Fold(i.Situation(), r), r, e)
}

// Expire does what the passing of time calls for.
func (m *Moment) Expire(ctx context.Context, tx *store.Tx, id ids.Instance, e Elsewhere) error {
	i, found, err := read[Instance](ctx, tx, instanceKey(id))
	if err != nil || !found {
		return err
	}
	step, _ := lifecycle.Overdue(i.Situation(), m.Now)
	late := host.InstanceStatus{Code: host.CodeInternal, Reason: "the host did not report the instance running in time"}
	return m.step(ctx, tx, &i, step, late, e)
}

// NeedsObserve says whether Observe would change the row.
func NeedsObserve(i *Instance, from ids.Host, r host.InstanceStatus) bool {
	return i.Host == from && (i.awaitsReboot(r) || lifecycle.Fold(i.Situation(), r) != lifecycle.Keep)
}

func (i *Instance) awaitsReboot(r host.InstanceStatus) bool {
	return !i.Rebooted && i.RebootID != "" && i.RebootID == r.RebootID
}

// rebooted ends a reboot's operation.
func (m *Moment) rebooted(ctx context.Context, tx *store.Tx, i *Instance, r host.InstanceStatus) error {
	if !i.awaitsReboot(r) {
		return nil
	}
	i.Rebooted = true
	i.put(tx)
	return op.Finish(ctx, tx, ids.Operation(i.RebootID), op.Succeeded, "", m.Now)
}

func (m *Moment) step(ctx context.Context, tx *store.Tx, i *Instance, s lifecycle.Step, r host.InstanceStatus, e Elsewhere) error {
	switch s {
	case lifecycle.Run:
		m.enter(i, compute.Running, compute.Reason{}, "")
		i.put(tx)
		return op.Finish(ctx, tx, i.Operation, op.Succeeded, "", m.Now, milestones(r)...)
	case lifecycle.Halt:
		return m.halt(ctx, tx, i, r)
	case lifecycle.StopGuest:
		return m.halt(ctx, tx, i, host.InstanceStatus{Code: compute.ReasonInstanceShutdown.Code, Reason: "Instance initiated shutdown"})
	case lifecycle.Vanish:
		if err := m.begin(ctx, tx, i, "TerminateOnShutdown"); err != nil {
			return err
		}
		return m.end(ctx, tx, i, compute.ReasonInstanceShutdown, "")
	case lifecycle.Retry:
		if len(e.Candidates) > 0 {
			return m.move(ctx, tx, i, e)
		}
		if r.State != host.VMFailed {
			return nil // there is nowhere to go: this host has until the limit
		}
		return m.fail(ctx, tx, i, r)
	case lifecycle.Fail:
		return m.fail(ctx, tx, i, r)
	}
	return nil
}

// halt is the arrival in stopped: asked for, by the guest itself, or because the machine died.
func (m *Moment) halt(ctx context.Context, tx *store.Tx, i *Instance, r host.InstanceStatus) error {
	if i.State == compute.Stopping {
		m.enter(i, compute.Stopped, compute.Reason(i.Reason), i.Transition)
		i.put(tx)
		return op.Finish(ctx, tx, i.Operation, op.Succeeded, "", m.Now)
	}
	accountrows.Refund(tx, i.Account, account.QuotaVCPUs, int64(i.VCPUs))
	why := reason(r)
	if err := op.Finish(ctx, tx, i.Operation, op.Failed, why.Message, m.Now); err != nil {
		return err
	}
	i.Power = host.PowerStop
	m.enter(i, compute.Stopped, why, why.Code)
	i.put(tx)
	i.tell(tx)
	return nil
}

// fail ends a launch that no host could boot.
func (m *Moment) fail(ctx context.Context, tx *store.Tx, i *Instance, r host.InstanceStatus) error {
	why := compute.ReasonInternalError
	if r.Reason != "" {
		why.Message = why.Code + ": " + r.Reason
	}
	if err := op.Finish(ctx, tx, i.Operation, op.Failed, why.Message, m.Now); err != nil {
		return err
	}
	return m.end(ctx, tx, i, why, why.Code)
}

// reason turns a host's cause into EC2's form: the message begins with the code.
func reason(r host.InstanceStatus) compute.Reason {
	code := r.Code
	if code == "" {
		code = host.CodeInternal
	}
	return compute.Reason{Code: code, Message: code + ": " + r.Reason}
}

// leave makes the instance absent from its host's document; the placement stays until the host confirms.
func (m *Moment) leave(ctx context.Context, tx *store.Tx, i *Instance) error {
	seq := dispatchrows.Delete(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInstances, string(i.ID))
	if err := vpcrows.Detach(ctx, tx, i.Account, i.Interface); err != nil {
		return err
	}
	p := Placement{Size: i.Size, Releasing: true, SinceMs: m.Now.UnixMilli()}
	tx.Put(placementKey(i.Host, i.ID), row.Encode(p, row.Bind(placementInstancesSeq, seq)))
	return nil
}

// Applied is how far a host has applied its own document.
type Applied struct{ Instances, Interfaces uint64 }

// Covers says whether the host has confirmed the end of a placement.
func (a Applied) Covers(p Placement) bool { return p.Releasing && a.Instances >= p.InstancesSeq }

// Release ends a placement that its host has confirmed: capacity returns, and with the last placement of a terminated
// instance its address and interface too.
func (m *Moment) Release(ctx context.Context, tx *store.Tx, h ids.Host, id ids.Instance, a Applied) error {
	p, found, err := read[Placement](ctx, tx, placementKey(h, id))
	if err != nil || !found || !a.Covers(p) {
		return err
	}
	i, found, err := read[Instance](ctx, tx, instanceKey(id))
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("release placement of %s on %s: the instance has no row", id, h)
	}
	last := h == i.Host && i.State == compute.ShuttingDown
	if last {
		if gone, err := interfaceGone(ctx, tx, &i, a); err != nil || !gone {
			return err
		}
	}
	tx.Delete(placementKey(h, id))
	returned := p.Size
	if i.KeepRoot && h == i.Host {
		returned.DiskGiB = 0
	}
	tx.Guard(fit.Return(h, returned))
	if h == i.Former {
		i.Former = ""
	}
	if last {
		i.HostConfirmed = true
		if err := m.releaseRoot(ctx, tx, &i); err != nil {
			return err
		}
	}
	if i.HostConfirmed && i.Former == "" {
		return m.terminated(ctx, tx, &i)
	}
	i.put(tx)
	return nil
}

// interfaceGone says whether the host has also confirmed the end of the instance's interface, which may be released
// already.
func interfaceGone(ctx context.Context, tx *store.Tx, i *Instance, a Applied) (bool, error) {
	n, err := vpcrows.GetInterface(ctx, tx, i.Account, i.Interface)
	var missing *vpc.NotFoundError
	if errors.As(err, &missing) {
		return true, nil
	}
	return err == nil && a.Interfaces >= n.ReleaseSeq, err
}

// releaseRoot ends the root volume, or leaves it lying on its host: then it holds its size under its own id.
func (m *Moment) releaseRoot(ctx context.Context, tx *store.Tx, i *Instance) error {
	if !i.KeepRoot {
		tx.Delete(volumeKey(i.RootVolume))
		tx.Delete(ownedKey(i.Account, i.RootVolume))
		tagrows.Delete(tx, i.Account, i.RootVolume)
		return nil
	}
	v, err := i.rootVolume(ctx, tx)
	if err != nil {
		return err
	}
	v.Instance, v.Device, v.Host = "", "", i.Host
	tx.Put(volumeKey(v.ID), row.Encode(v))
	tx.Put(placementKey(i.Host, v.ID), row.Encode(Placement{Size: fit.Size{DiskGiB: i.Size.DiskGiB}, SinceMs: m.Now.UnixMilli()}))
	return nil
}

func (m *Moment) terminated(ctx context.Context, tx *store.Tx, i *Instance) error {
	m.enter(i, compute.Terminated, compute.Reason(i.Reason), i.Transition)
	i.TerminatedMs = m.Now.UnixMilli()
	i.put(tx)
	if err := vpcrows.Release(ctx, tx, i.Account, i.Interface); err != nil {
		return err
	}
	return op.Finish(ctx, tx, i.Operation, op.Succeeded, "", m.Now)
}

// errTokenHeld keeps an instance's row while a client token names it.
var errTokenHeld = errors.New("a client token still names the instance's reservation")

// tokenGrace is how long after a token's lifetime its record has surely been collected.
const tokenGrace = 15 * time.Minute

// PurgeAt is when a terminated instance's row may go: it was visible for its time, and its token is forgotten.
func (i *Instance) PurgeAt() time.Time {
	at := time.UnixMilli(i.TerminatedMs).Add(compute.TerminatedFor)
	if forgotten := time.UnixMilli(i.CreatedMs).Add(idem.Lifetime + tokenGrace); i.Token != "" && forgotten.After(at) {
		return forgotten
	}
	return at
}

// Purge removes a terminated instance's row. It reports whether the row is gone.
func (m *Moment) Purge(ctx context.Context, db *store.DB, id ids.Instance) (bool, error) {
	_, err := db.Transact(ctx, func(tx *store.Tx) error {
		i, found, err := read[Instance](ctx, tx, instanceKey(id))
		if err != nil || !found || i.State != compute.Terminated || m.Now.Before(i.PurgeAt()) {
			return err
		}
		idem.Released(tx, i.tokenScope(), errTokenHeld)
		tx.Delete(instanceKey(id))
		tx.Delete(ownedKey(i.Account, id))
		tagrows.Delete(tx, i.Account, id)
		return nil
	})
	if errors.Is(err, errTokenHeld) {
		return false, nil
	}
	return err == nil, err
}

func (i *Instance) tokenScope() idem.Scope { return TokenScope(i.Account, i.Token) }

const tokenAction = "RunInstances"

// TokenScope is what a launch's client token is unique in.
func TokenScope(a ids.Account, token string) idem.Scope {
	return idem.Scope{Account: a, Action: tokenAction, Token: token}
}
