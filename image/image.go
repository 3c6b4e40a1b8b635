package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

const (
	// RootDeviceName is the root device of every image.
	RootDeviceName = "/dev/xvda"
	// MaxNameBytes and MinNameBytes are EC2's bounds of an image's name.
	MinNameBytes, MaxNameBytes = 3, 128
	// MaxDescriptionBytes is EC2's bound of a description.
	MaxDescriptionBytes = 255
	// DefaultMaxPerAccount bounds the images of one owner where the operator sets nothing else.
	DefaultMaxPerAccount = 1000
	// MaxUsers bounds the accounts that one image is shared with.
	MaxUsers = 1000
)

// State is an image's state.
type State uint8

const (
	Available State = iota
	Deregistered
)

func (s State) String() string { return [...]string{"available", "deregistered"}[s] }

// Image is one registered machine image. Values handed out by Service are shared: read them, never write.
type Image struct {
	ID          ids.Image
	Owner       ids.Account
	Name        string // unique per owner
	Description string
	Public      bool // every account may launch it
	// Users are the accounts that may launch it by name, sorted. The owner sees all of them, another account itself only.
	Users          []ids.Account
	SHA256         string
	Bytes          uint64 // of the raw disk
	Architecture   string // "x86_64" or "arm64"
	BootMode       string // "legacy-bios", "uefi" or "uefi-preferred"
	RootDeviceName string
	RootSnapshot   ids.Snapshot // names the content in Register; images of one content that were made of each other share it
	RootDiskGiB    int          // of a launch that asks for no size; 0: MinDiskGiB
	State          State
	CreateTime     time.Time
	Tags           map[string]string
}

// UEFI tells whether instances boot by UEFI: hosts have it, so an image that prefers it gets it.
func (i *Image) UEFI() bool { return i.BootMode == "uefi" || i.BootMode == "uefi-preferred" }

// MinDiskGiB is the smallest root disk that holds the image.
func (i *Image) MinDiskGiB() int {
	const gib = 1 << 30
	return int((i.Bytes + gib - 1) / gib)
}

// DiskGiB is the root disk of a launch that asks for no size.
func (i *Image) DiskGiB() int { return max(i.RootDiskGiB, i.MinDiskGiB(), 1) }

// Registration describes a local raw disk to register.
type Registration struct {
	Path         string // raw disk; read once for its digest and size
	Owner        ids.Account
	Name         string
	Description  string
	Public       bool
	Architecture string
	BootMode     string
}

// Source names content that the catalog has, by an image that the account may launch.
type Source struct {
	Snapshot ids.Snapshot // the image's root snapshot
	Location string       // or, without a snapshot, "OWNER/NAME" of the image
}

// Request asks for a new image of content that the catalog has. Fields left empty are the source's.
type Request struct {
	Account      ids.Account
	Source       Source
	Name         string
	Description  string
	Architecture string // another than the source's is refused
	BootMode     string
	RootDiskGiB  int
	Tags         map[string]string
}

// Change is what may become different about an image; nil and empty leave things as they are.
type Change struct {
	Description *string
	Public      *bool
	// Add and Remove are accounts that may launch the image. Adding one that is there and removing one that is not
	// change nothing. ClearUsers removes all before Add.
	Add, Remove []ids.Account
	ClearUsers  bool
}

// Service is the image catalog.
type Service interface {
	// RegisterLocal registers the raw disk at r.Path, keeping its content under its digest in the service's directory. The
	// same owner, name and content again returns the image that exists; the same name with other content registers a new
	// image under the name and deregisters the old one (its instances keep running).
	RegisterLocal(ctx context.Context, r Registration) (*Image, error)
	// Register makes a private image of content that is in the catalog. *InvalidError, *DuplicateError, *LimitError;
	// *SnapshotError or, for a location, *InvalidError when the source names no image that the account may launch.
	// With dryRun everything is checked and nothing changed; the image is nil.
	Register(ctx context.Context, r Request, dryRun bool) (*Image, error)
	// Deregister removes an image of the account's own. Its instances keep running, and its content stays.
	// *NotFoundError; *OwnerError for an image that the account may launch and does not own.
	Deregister(ctx context.Context, account ids.Account, id ids.Image, dryRun bool) error
	// Modify changes an image of the account's own. Errors as of Deregister; *InvalidError, *LimitError.
	Modify(ctx context.Context, account ids.Account, id ids.Image, c Change, dryRun bool) error
	// DescribeImages lists images that the account may launch, by creation time. Missing ids are a *NotFoundError.
	DescribeImages(ctx context.Context, account ids.Account, ids []ids.Image, keep func(*Image) bool) ([]*Image, error)
}

// ErrBehind: the in-memory view did not reach the store's version in time. Retry (503).
var ErrBehind = errors.New("the image view is behind the store; retry")

// ErrNoContent: no content of this digest is kept here.
var ErrNoContent = errors.New("no image has this content")

// NotFoundError names images that do not exist or that the account may not launch (InvalidAMIID.NotFound).
type NotFoundError struct{ IDs []ids.Image }

func (e *NotFoundError) Error() string {
	names := make([]string, len(e.IDs))
	for i, id := range e.IDs {
		names[i] = string(id)
	}
	return fmt.Sprintf("the image id '[%s]' does not exist", strings.Join(names, ", "))
}

// InvalidError reports a registration that cannot work.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return fmt.Sprintf("invalid image %s: %s", e.Field, e.Reason) }

// OwnerError: the account may launch the image, but only its owner may do this (AuthFailure).
type OwnerError struct{ ID ids.Image }

func (e *OwnerError) Error() string { return fmt.Sprintf("not authorized for image:%s", e.ID) }

// DuplicateError: the account has another image of the name (InvalidAMIName.Duplicate).
type DuplicateError struct {
	Name string
	With ids.Image
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("AMI name %s is already in use by AMI %s", e.Name, e.With)
}

// SnapshotError: no image that the account may launch has this root snapshot (InvalidSnapshot.NotFound).
type SnapshotError struct{ ID ids.Snapshot }

func (e *SnapshotError) Error() string { return fmt.Sprintf("the snapshot '%s' does not exist", e.ID) }

// LimitError: the account has as many images as it may, or the image is shared with MaxUsers accounts.
type LimitError struct {
	What string
	Max  int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("at most %d %s are allowed; remove some first", e.Max, e.What)
}
