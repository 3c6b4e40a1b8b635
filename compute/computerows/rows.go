package computerows

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
)

// Instance is an instance's row. Keys of fields are never reused. Host is bound at commit. The address and groups are the
// interface's, which vpc has.
type Instance struct {
	ID            ids.Instance             `cbor:"1,keyasint"`
	Account       ids.Account              `cbor:"2,keyasint"`
	Reservation   ids.Reservation          `cbor:"3,keyasint"`
	LaunchIndex   int                      `cbor:"4,keyasint,omitempty"`
	CreatedMs     int64                    `cbor:"5,keyasint"`
	LaunchedMs    int64                    `cbor:"6,keyasint"` // last start
	Type          string                   `cbor:"7,keyasint"`
	Zone          string                   `cbor:"8,keyasint"`
	Host          ids.Host                 `cbor:"9,keyasint,omitempty"`
	State         compute.State            `cbor:"10,keyasint,omitempty"`
	Reason        Reason                   `cbor:"11,keyasint"`
	Transition    string                   `cbor:"12,keyasint,omitempty"`
	TransitionMs  int64                    `cbor:"13,keyasint"`
	Generation    uint64                   `cbor:"14,keyasint"`
	Power         host.Power               `cbor:"15,keyasint,omitempty"`
	RebootID      string                   `cbor:"16,keyasint,omitempty"`
	Operation     ids.Operation            `cbor:"17,keyasint"`
	Attempt       int                      `cbor:"18,keyasint"` // hosts tried by the launch
	AttemptMs     int64                    `cbor:"19,keyasint"` // when the last of them was told
	Size          fit.Size                 `cbor:"20,keyasint"`
	VCPUs         int                      `cbor:"21,keyasint"`
	Former        ids.Host                 `cbor:"22,keyasint,omitempty"` // first host of a retried launch, until it confirms
	HostConfirmed bool                     `cbor:"23,keyasint,omitempty"` // terminated: Host has confirmed
	VPC           ids.VPC                  `cbor:"24,keyasint"`
	Subnet        ids.Subnet               `cbor:"25,keyasint"`
	Interface     ids.Interface            `cbor:"26,keyasint"`
	Attachment    ids.InterfaceAttachment  `cbor:"27,keyasint"`
	GroupNames    []string                 `cbor:"28,keyasint,omitempty"`
	KeyName       string                   `cbor:"29,keyasint,omitempty"`
	PublicKey     string                   `cbor:"30,keyasint,omitempty"`
	UserData      []byte                   `cbor:"31,keyasint,omitempty"`
	Metadata      Metadata                 `cbor:"32,keyasint"`
	Protected     bool                     `cbor:"33,keyasint,omitempty"`
	OnShutdown    compute.ShutdownBehavior `cbor:"34,keyasint,omitempty"`
	Image         ids.Image                `cbor:"35,keyasint"`
	ImageSHA256   string                   `cbor:"36,keyasint"`
	ImageBytes    uint64                   `cbor:"37,keyasint"`
	Architecture  string                   `cbor:"38,keyasint"`
	RootDevice    string                   `cbor:"39,keyasint"`
	RootVolume    ids.Volume               `cbor:"40,keyasint"`
	RootDiskGiB   int                      `cbor:"41,keyasint"`
	KeepRoot      bool                     `cbor:"42,keyasint,omitempty"`
	Token         string                   `cbor:"43,keyasint,omitempty"`
	Region        string                   `cbor:"44,keyasint"`
	TerminatedMs  int64                    `cbor:"45,keyasint,omitempty"`
	Rebooted      bool                     `cbor:"46,keyasint,omitempty"` // the host has executed RebootID
	UEFI          bool                     `cbor:"47,keyasint,omitempty"` // the image's boot mode; BIOS otherwise
}

// Reason is a compute.Reason as stored.
type Reason struct {
	Code    string `cbor:"1,keyasint,omitempty"`
	Message string `cbor:"2,keyasint,omitempty"`
}

// Metadata is a compute.MetadataOptions as stored.
type Metadata struct {
	TokensRequired bool `cbor:"1,keyasint,omitempty"`
	HopLimit       int  `cbor:"2,keyasint,omitempty"`
	Disabled       bool `cbor:"3,keyasint,omitempty"`
}

// instanceHost is the row key of Host.
const instanceHost = 9

// Volume is a root disk's row. Its state follows from the instance: in use as long as Instance is set.
type Volume struct {
	ID        ids.Volume   `cbor:"1,keyasint"`
	Account   ids.Account  `cbor:"2,keyasint"`
	Zone      string       `cbor:"3,keyasint"`
	SizeGiB   int          `cbor:"4,keyasint"`
	CreatedMs int64        `cbor:"5,keyasint"`
	Instance  ids.Instance `cbor:"6,keyasint,omitempty"`
	Device    string       `cbor:"7,keyasint"`
	Keep      bool         `cbor:"8,keyasint,omitempty"`
	Image     ids.Image    `cbor:"9,keyasint"`
	Deleting  bool         `cbor:"10,keyasint,omitempty"`
	Host      ids.Host     `cbor:"11,keyasint,omitempty"` // where a kept disk lies, once its instance is gone
	// Charged says that the volume uses the account's quota. Volumes of before there was a charge never do.
	Charged bool `cbor:"12,keyasint,omitempty"`
}

// Host is a host's row: its own description, and whether it drains. Silent says that it had been silent for
// compute.HostDownAfter when a server last looked: the next server does not count on its return.
type Host struct {
	Info     host.Info `cbor:"1,keyasint"`
	Draining bool      `cbor:"2,keyasint,omitempty"`
	Silent   bool      `cbor:"3,keyasint,omitempty"`
}

// Placement is what an instance holds of a host. InstancesSeq is the sequence of the host's section whose
// application ends it.
type Placement struct {
	Size         fit.Size `cbor:"1,keyasint"`
	Releasing    bool     `cbor:"2,keyasint,omitempty"`
	InstancesSeq uint64   `cbor:"3,keyasint,omitempty"`
	SinceMs      int64    `cbor:"4,keyasint"`
}

// placementInstancesSeq is the row key of InstancesSeq.
const placementInstancesSeq = 3

// Prefix begins every row of this part.
func Prefix() []byte { return store.Prefix("compute") }

func instanceKey(id ids.Instance) store.Template { return store.Key("compute", "instance", id) }
func volumeKey(id ids.Volume) store.Template     { return store.Key("compute", "volume", id) }
func hostKey(id ids.Host) store.Template         { return store.Key("compute", "host", id) }

// ownedKey says whose an instance or volume is, for guards of other parts.
func ownedKey(a ids.Account, id any) store.Template { return store.Key("compute", "owned", a, id) }

// ExpectOwned fails the transaction with otherwise unless the account has the instance or volume. It reads nothing.
func ExpectOwned(tx *store.Tx, a ids.Account, id string, otherwise error) {
	tx.Expect(ownedKey(a, id), store.Exists(), store.Else(otherwise))
}

// placementKey takes the host as an id or as the slot that holds it at commit.
//
// A kept root disk holds its size under its own id.
func placementKey(h, id any) store.Template {
	return store.Key("compute", "place", h, id)
}

// read decodes one row.
func read[T any](ctx context.Context, r store.Reader, key store.Template) (T, bool, error) {
	value, found, err := r.Get(ctx, key.Base)
	if err != nil || !found {
		var zero T
		return zero, false, err
	}
	v, err := row.Decode[T](value.Bytes)
	if err != nil {
		return v, false, fmt.Errorf("decode row %q: %w", key.Base, err)
	}
	return v, true, nil
}

// Visible says whether clients see the instance: terminated ones for compute.TerminatedFor.
func (i *Instance) Visible(now time.Time) bool {
	return i.State != compute.Terminated || now.Sub(time.UnixMilli(i.TerminatedMs)) < compute.TerminatedFor
}

// Unsettled says whether time alone will change the instance.
func (i *Instance) Unsettled() bool {
	return i.State == compute.Pending || i.State == compute.Terminated
}

// Situation is what lifecycle decides on.
func (i *Instance) Situation() lifecycle.Situation {
	return lifecycle.Situation{
		State: i.State, Generation: i.Generation, Attempt: i.Attempt,
		PendingSince: time.UnixMilli(i.LaunchedMs), AttemptSince: time.UnixMilli(i.AttemptMs), OnShutdown: i.OnShutdown,
	}
}

// View is the instance as clients see it, with its interface if that still exists. Tags and whether it is simulated are
// the caller's to fill.
func (i *Instance) View(n *vpc.Interface) *compute.Instance {
	v := &compute.Instance{
		ID: i.ID, Account: i.Account, Reservation: i.Reservation, LaunchIndex: i.LaunchIndex,
		LaunchTime: time.UnixMilli(i.LaunchedMs).UTC(), CreateTime: time.UnixMilli(i.CreatedMs).UTC(),
		Type: i.Type, Architecture: i.Architecture, Image: i.Image, Zone: i.Zone, Host: i.Host,
		State: i.State, Reason: compute.Reason(i.Reason), TransitionReason: i.Transition, TransitionTime: time.UnixMilli(i.TransitionMs).UTC(),
		Generation: i.Generation, Operation: i.Operation,
		VPC: i.VPC, Subnet: i.Subnet, Interface: i.Interface, Attachment: i.Attachment,
		KeyName: i.KeyName, UserData: i.UserData, Metadata: compute.MetadataOptions(i.Metadata), DisableAPITermination: i.Protected,
		ShutdownBehavior: i.OnShutdown, RootDeviceName: i.RootDevice, RootVolume: i.RootVolume,
		DeleteRootOnTerminate: !i.KeepRoot, ClientToken: i.Token,
	}
	v.Network = n
	if n != nil && n.State == vpc.InterfaceInUse {
		v.Groups, v.PrivateIP, v.PrivateDNSName = n.Groups, n.Address, n.PrivateDNSName
		if v.PrivateDNSName == "" { // a reader of rows does not know it
			v.PrivateDNSName = host.PrivateDNSName(n.Address, i.Region)
		}
	}
	return v
}

// Item is what the instance's host is told.
func (i *Instance) Item() host.Instance {
	return host.Instance{
		ID: i.ID, Account: i.Account, Generation: i.Generation, Power: i.Power, RebootID: i.RebootID,
		Type: i.Type, VCPUs: i.VCPUs, MemoryMiB: int(i.Size.MemoryMiB) - compute.GuestOverheadMiB, Zone: i.Zone, Region: i.Region,
		Image: i.Image, ImageSHA256: i.ImageSHA256, ImageBytes: i.ImageBytes, UEFI: i.UEFI,
		RootVolume: i.RootVolume, RootDiskGiB: i.RootDiskGiB, DeleteRootOnTermination: !i.KeepRoot,
		Interfaces: []ids.Interface{i.Interface}, Reservation: i.Reservation, LaunchIndex: i.LaunchIndex,
		LaunchTimeMs: i.LaunchedMs, UserData: i.UserData, KeyName: i.KeyName, PublicKey: i.PublicKey,
		MetadataTokensRequired: i.Metadata.TokensRequired, MetadataHopLimit: i.Metadata.HopLimit,
		MetadataDisabled: i.Metadata.Disabled, GroupNames: i.GroupNames,
	}
}

// View is the volume as clients see it.
func (v *Volume) View() *compute.Volume {
	state := compute.VolumeInUse
	switch {
	case v.Deleting:
		state = compute.VolumeDeleting
	case v.Instance == "":
		state = compute.VolumeAvailable
	}
	return &compute.Volume{
		ID: v.ID, Account: v.Account, Zone: v.Zone, SizeGiB: v.SizeGiB, State: state, CreateTime: time.UnixMilli(v.CreatedMs).UTC(),
		Instance: v.Instance, Device: v.Device, DeleteOnTermination: !v.Keep, Image: v.Image,
	}
}

// Capacity is what the host offers.
func (h *Host) Capacity() fit.Size {
	return fit.Size{
		VCPUs: int64(h.Info.VCPUs), MemoryMiB: int64(h.Info.MemoryMiB), DiskGiB: int64(h.Info.DiskGiB), Slots: fit.SlotsPerHost,
	}
}
