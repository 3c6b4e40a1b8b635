package computerows

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/svc/op"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// Launch is one RunInstances, with everything decided but what only the commit can: which candidate host takes each
// instance, and its address.
type Launch struct {
	Now       time.Time
	Token     idem.Scope // with an empty token the launch is not idempotent
	Print     idem.Fingerprint
	Min       int // fewer instances than this fail the whole launch
	KeyPair   ids.KeyPair
	Network   vpc.Prepared
	Instances []Planned
	NoRoom    error // what the launch fails with when capacity is the reason
}

// Planned is one instance of a launch.
type Planned struct {
	Instance   Instance // Host and AddressOffset are empty
	Candidates []ids.Host
	Attach     vpcrows.AttachRequest // its Host and Prepared are filled in here
	Tags       map[string]string
	VolumeTags map[string]string
}

// Launched tells, through the transaction's result, what became of one planned instance.
type Launched struct {
	Ran, Host store.Slot
	Attached  vpcrows.Attached
}

// Launch adds the whole launch to a transaction. It reads nothing, so that no launch conflicts with anything: the token,
// the image and the key pair are guarded once, and each instance is a group of its own of which Min must hold.
// An error is one of the plan itself.
func (l *Launch) Launch(tx *store.Tx) ([]Launched, error) {
	first := &l.Instances[0].Instance
	if l.Token.Token != "" {
		idem.Claim(tx, l.Token, l.Print, string(first.Reservation), l.Now)
	}
	imagerows.Expect(tx, first.Image)
	if l.KeyPair != "" {
		missing := &account.NotFoundError{Kind: account.KindKeyPair, ID: first.KeyName}
		accountrows.ExpectKeyPairID(tx, first.Account, l.KeyPair, missing)
	}
	vpcrows.ExpectPrepared(tx, l.Network)
	out := make([]Launched, len(l.Instances))
	errs := make([]error, len(l.Instances))
	groups := make([]func(*store.Tx), len(l.Instances))
	for k := range l.Instances {
		groups[k] = func(tx *store.Tx) { out[k], errs[k] = l.one(tx, &l.Instances[k]) }
	}
	for k, ran := range tx.AtLeast(l.Min, groups) {
		out[k].Ran = ran
	}
	return out, errors.Join(errs...)
}

// one launches one instance. Cheap refusals come first.
func (l *Launch) one(tx *store.Tx, p *Planned) (Launched, error) {
	i := &p.Instance
	accountrows.Charge(tx, i.Account, account.QuotaInstances, 1)
	accountrows.Charge(tx, i.Account, account.QuotaVCPUs, int64(i.VCPUs))
	accountrows.Charge(tx, i.Account, account.QuotaVolumes, 1)
	chosen := tx.FirstOf(alternatives(p.Candidates, i.Size), store.Else(l.NoRoom))
	request := p.Attach
	request.Host, request.Prepared = chosen, l.Network
	attached, err := vpcrows.Attach(tx, request)
	if err != nil {
		return Launched{}, err
	}
	tx.Put(placementKey(chosen, i.ID), row.Encode(Placement{Size: i.Size, SinceMs: l.Now.UnixMilli()}))
	tx.Put(instanceKey(i.ID), row.Encode(*i, row.Bind(instanceHost, chosen)))
	tx.Put(volumeKey(i.RootVolume), row.Encode(i.volume()))
	tagrows.Insert(tx, i.Account, i.ID, p.Tags)
	tagrows.Insert(tx, i.Account, i.RootVolume, p.VolumeTags)
	tx.Put(ownedKey(i.Account, i.ID), store.Int(1))
	tx.Put(ownedKey(i.Account, i.RootVolume), store.Int(1))
	op.Begin(tx, i.operation("RunInstances", l.Now))
	dispatchrows.Put(tx, dispatchrows.ForLabel(host.DocHostPrefix(), chosen), host.SectionInstances, string(i.ID),
		store.Bytes(host.Encode(i.Item())), i.needs())
	return Launched{Host: chosen, Attached: attached}, nil
}

// CandidatesFor is how many candidates each instance of a launch may have, so that the commit stays within the store's
// bound of guards. An instance takes ten, and one for each resource of each candidate.
func CandidatesFor(instances int) int {
	const perLaunch, perInstance, perCandidate = 8, 10, 4
	room := (store.MaxGuards-perLaunch)/instances - perInstance
	return max(1, room/perCandidate)
}

// alternatives are the candidate hosts, each guarded by "does it fit".
func alternatives(candidates []ids.Host, need fit.Size) []store.Alternative {
	out := make([]store.Alternative, len(candidates))
	for k, h := range candidates {
		out[k] = store.Alternative{Label: []byte(h), Guards: func(tx *store.Tx) { tx.Guard(fit.Take(h, need)) }}
	}
	return out
}

// needs makes the host apply the instance only when it knows its network.
func (i *Instance) needs() dispatchrows.ItemOption { return dispatchrows.Topics(host.DocVPC(i.VPC)) }

func (i *Instance) volume() Volume {
	return Volume{
		ID: i.RootVolume, Account: i.Account, Zone: i.Zone, SizeGiB: i.RootDiskGiB, CreatedMs: i.CreatedMs, Instance: i.ID,
		Device: i.RootDevice, Keep: i.KeepRoot, Image: i.Image, Charged: true,
	}
}

// rootVolume reads the row of the instance's root disk.
func (i *Instance) rootVolume(ctx context.Context, r store.Reader) (Volume, error) {
	v, found, err := read[Volume](ctx, r, volumeKey(i.RootVolume))
	if err == nil && !found {
		err = fmt.Errorf("read root volume %s of %s: no such row", i.RootVolume, i.ID)
	}
	return v, err
}

func (i *Instance) operation(kind string, now time.Time) op.Operation {
	return op.Operation{ID: i.Operation, Kind: kind, Account: i.Account, Target: string(i.ID), BeganMs: now.UnixMilli()}
}

// move retries a pending launch on another host: the first keeps its placement until it confirms, and the interface
// goes along with its address.
func (m *Moment) move(ctx context.Context, tx *store.Tx, i *Instance, e Elsewhere) error {
	seq := dispatchrows.Delete(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInstances, string(i.ID))
	chosen := tx.FirstOf(alternatives(e.Candidates, i.Size), store.Else(e.NoRoom))
	if err := vpcrows.Move(ctx, tx, i.Account, i.Interface, chosen); err != nil {
		return err
	}
	left := Placement{Size: i.Size, Releasing: true, SinceMs: m.Now.UnixMilli()}
	tx.Put(placementKey(i.Host, i.ID), row.Encode(left, row.Bind(placementInstancesSeq, seq)))
	i.Former, i.Host = i.Host, ""
	i.Attempt++
	i.AttemptMs = m.Now.UnixMilli()
	tx.Put(placementKey(chosen, i.ID), row.Encode(Placement{Size: i.Size, SinceMs: m.Now.UnixMilli()}))
	tx.Put(instanceKey(i.ID), row.Encode(*i, row.Bind(instanceHost, chosen)))
	dispatchrows.Put(tx, dispatchrows.ForLabel(host.DocHostPrefix(), chosen), host.SectionInstances, string(i.ID),
		store.Bytes(host.Encode(i.Item())), i.needs())
	return op.Advance(ctx, tx, i.Operation, "retried on another host", m.Now)
}
