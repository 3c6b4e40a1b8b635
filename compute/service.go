package compute

import (
	"context"
	"net/netip"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// RunRequest is a validated launch. Fields that EC2 defaults are filled in by RunInstances when zero: subnet (default
// subnet of the zone, or of any zone), groups (default group of the VPC), root disk size (the image's), hop limit (1).
type RunRequest struct {
	Image    ids.Image
	Type     string
	MinCount int // ≥ 1
	MaxCount int // ≥ MinCount; more than MaxPerRequest is refused
	Zone     string
	Subnet   ids.Subnet
	Groups   []ids.SecurityGroup
	// PrivateIP is the address wanted; needs MaxCount 1.
	PrivateIP netip.Addr
	KeyName   string
	UserData  []byte // decoded, at most MaxUserDataBytes
	RootDisk  RootDisk
	Metadata  MetadataOptions

	InterfaceDescription  string
	DisableAPITermination bool
	ShutdownBehavior      ShutdownBehavior
	InstanceTags          map[string]string
	VolumeTags            map[string]string
	InterfaceTags         map[string]string
	ClientToken           string // empty: not idempotent
}

// RootDisk is what a launch says about the root volume.
type RootDisk struct {
	SizeGiB int // 0: the image's size rounded up
	Keep    bool
}

// Attributes are the changes ModifyInstanceAttribute may make; nil means unchanged.
type Attributes struct {
	DisableAPITermination *bool
	ShutdownBehavior      *ShutdownBehavior
	UserData              *[]byte // stopped instances only
	DeleteRootOnTerminate *bool
	Metadata              *MetadataOptions
	// Type is a type's name, for a stopped instance. It stays on its host, which must have room: *CapacityError.
	Type *string
	// Groups replaces the groups of the primary interface, running or stopped; empty leaves them.
	Groups []ids.SecurityGroup
	// SourceDestCheck says whether the host drops what the primary interface sends from addresses that are not its own.
	SourceDestCheck *bool
}

// Launcher starts instances.
type Launcher interface {
	// RunInstances launches between MinCount and MaxCount instances in one transaction and returns them pending. The same
	// client token with the same request returns the same instances in their present state; with another request it is an
	// *idem.MismatchError. Errors are this package's, vpc's, image's and account's; nothing is launched with an error.
	RunInstances(ctx context.Context, account ids.Account, r RunRequest) (Reservation, error)
	// CheckLaunch finds what RunInstances would refuse the request for, but for quotas and room, and makes nothing.
	CheckLaunch(ctx context.Context, account ids.Account, r RunRequest) error
}

// Lifecycle moves instances between states. A call of up to MaxPerTransaction ids is one transaction: all move, or none and
// the error names the first that may not. A longer one, up to MaxIDsPerRequest, is judged as a whole on one snapshot, so
// that an unknown id or an illegal state moves none, and then takes several transactions: when the world changes meanwhile, or a
// quota ends, some have moved and the error says what stopped the others. Every call may be repeated.
type Lifecycle interface {
	StartInstances(ctx context.Context, account ids.Account, ids []ids.Instance) ([]StateChange, error)
	// StopInstances shuts guests down; force kills them. Stopping a stopped instance changes nothing.
	StopInstances(ctx context.Context, account ids.Account, ids []ids.Instance, force bool) ([]StateChange, error)
	RebootInstances(ctx context.Context, account ids.Account, ids []ids.Instance) error
	// TerminateInstances is idempotent while a terminated instance is visible.
	TerminateInstances(ctx context.Context, account ids.Account, ids []ids.Instance) ([]StateChange, error)
	ModifyInstanceAttributes(ctx context.Context, account ids.Account, id ids.Instance, a Attributes) error
}

// Viewer reads. Every read waits until the view has reached the store's version at its arrival, at most ReadBehind, then
// fails with ErrBehind. Results are sorted by creation time, then reservation, then launch index. ids empty means all of
// the account; a missing id is a *NotFoundError that names every missing one. keep nil keeps all.
type Viewer interface {
	DescribeInstances(ctx context.Context, account ids.Account, ids []ids.Instance, keep func(*Instance) bool) ([]*Instance, error)
	DescribeInstanceStatus(ctx context.Context, account ids.Account, ids []ids.Instance, keep func(*Status) bool) ([]*Status, error)
	// PageInstances returns a page of an account's instances in the order of their places. next is where the page after
	// begins, empty when there is none. It costs what it looks at, not what there is: indexes lead to what Where holds
	// for. An instance that is there throughout a walk of pages comes exactly once.
	PageInstances(ctx context.Context, account ids.Account, p Page) (found []*Instance, next string, err error)
	// Statuses are the instances' statuses as of now.
	Statuses(instances []*Instance) []*Status
	DescribeVolumes(ctx context.Context, account ids.Account, ids []ids.Volume, keep func(*Volume) bool) ([]*Volume, error)
	// ConsoleOutput returns the last ConsoleTailBytes of the serial console and the time they were read at.
	ConsoleOutput(ctx context.Context, account ids.Account, id ids.Instance) ([]byte, time.Time, error)
	// Zones lists zones that any host has ever reported, by name.
	Zones(ctx context.Context) ([]Zone, error)
}

// Operator is what operators, not tenants, may ask.
type Operator interface {
	Hosts(ctx context.Context) ([]Host, error)
	// AllInstances lists every account's instances.
	AllInstances(ctx context.Context) ([]*Instance, error)
	// DrainHost stops (or allows) new placements on a host; what runs there stays.
	DrainHost(ctx context.Context, id ids.Host, drain bool) error
	// FenceHost gives a host up: when it returns it starts nothing before it has its whole document anew, and it drains. With
	// off, for which the caller answers, the machine is off and stays so until then: what was ended there and waits for
	// the host's confirmation is free at once; freed is how many instances those are. *NotFoundError; ErrHostHeard for off.
	// It may be repeated, after more was terminated.
	FenceHost(ctx context.Context, id ids.Host, off bool) (freed int, err error)
	// LastReport is what an instance's host said of it last, in the host's own words and times. It is memory: absent until
	// the host has said something since this server started.
	LastReport(id ids.Instance) (host.InstanceStatus, bool)
}

// Service is the whole part.
type Service interface {
	Launcher
	Lifecycle
	Viewer
	Operator
}
