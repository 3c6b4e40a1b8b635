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
	// MaxPerAccount bounds the images of one owner.
	MaxPerAccount = 1000
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
	ID             ids.Image
	Owner          ids.Account
	Name           string // unique per owner
	Description    string
	Public         bool // every account may launch it
	SHA256         string
	Bytes          uint64 // of the raw disk
	Architecture   string // "x86_64" or "arm64"
	BootMode       string // "legacy-bios", "uefi" or "uefi-preferred"
	RootDeviceName string
	RootSnapshot   ids.Snapshot // shown in the block device mapping; no snapshot can be read yet
	State          State
	CreateTime     time.Time
	Tags           map[string]string
}

// MinDiskGiB is the smallest root disk that holds the image.
func (i *Image) MinDiskGiB() int {
	const gib = 1 << 30
	return int((i.Bytes + gib - 1) / gib)
}

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

// Service is the image catalog.
type Service interface {
	// RegisterLocal registers the raw disk at r.Path, keeping its content under its digest in the service's directory. The
	// same owner, name and content again returns the image that exists; the same name with other content registers a new
	// image under the name and deregisters the old one (its instances keep running).
	RegisterLocal(ctx context.Context, r Registration) (*Image, error)
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
