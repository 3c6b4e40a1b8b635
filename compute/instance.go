package compute

import (
	"net/netip"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// State is an instance's state with EC2's code as its value.
type State uint8

const (
	Pending      State = 0
	Running      State = 16
	ShuttingDown State = 32
	Terminated   State = 48
	Stopping     State = 64
	Stopped      State = 80
)

// String is the state's name as EC2 spells it.
func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Running:
		return "running"
	case ShuttingDown:
		return "shutting-down"
	case Terminated:
		return "terminated"
	case Stopping:
		return "stopping"
	case Stopped:
		return "stopped"
	}
	return "unknown"
}

// Reason is why the last state change happened: EC2's stateReason. The zero value is "none".
type Reason struct {
	Code    string // "Client.UserInitiatedShutdown"
	Message string // "Client.UserInitiatedShutdown: User initiated shutdown"
}

// The reasons this part gives, with EC2's codes and texts.
var (
	ReasonPending             = Reason{"pending", "pending"}
	ReasonUserShutdown        = Reason{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
	ReasonInstanceShutdown    = Reason{"Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown"}
	ReasonInternalError       = Reason{"Server.InternalError", "Server.InternalError: Internal error on launch"}
	ReasonInsufficientForMove = Reason{"Server.InsufficientInstanceCapacity", "Server.InsufficientInstanceCapacity: Insufficient capacity to satisfy instance request"}
)

// ShutdownBehavior is what a shutdown from inside the guest does.
type ShutdownBehavior uint8

const (
	ShutdownStops ShutdownBehavior = iota
	ShutdownTerminates
)

func (b ShutdownBehavior) String() string {
	if b == ShutdownTerminates {
		return "terminate"
	}
	return "stop"
}

// MetadataOptions are the settings of an instance's metadata service.
type MetadataOptions struct {
	TokensRequired bool // HttpTokens=required
	HopLimit       int  // 1 to 64; 0 means the default, 1
	Disabled       bool // HttpEndpoint=disabled
}

// Instance is one virtual machine as clients see it. Values handed out by Service are shared: read them, never write.
type Instance struct {
	ID          ids.Instance
	Account     ids.Account
	Reservation ids.Reservation
	LaunchIndex int
	LaunchTime  time.Time // of the last start, as in EC2
	CreateTime  time.Time // of the launch

	Type         string
	Architecture string // "x86_64" or "arm64"
	Image        ids.Image
	Zone         string
	Host         ids.Host

	State            State
	Reason           Reason // stateReason
	TransitionReason string // "User initiated (2026-11-23 17:57:34 GMT)" or empty
	TransitionTime   time.Time
	Generation       uint64 // 1 at launch, +1 at each start
	Operation        ids.Operation

	VPC            ids.VPC
	Subnet         ids.Subnet
	Interface      ids.Interface // primary interface
	Attachment     ids.InterfaceAttachment
	Network        *vpc.Interface      // the primary interface as vpc has it, without tags; nil before it was seen and once it is gone
	Groups         []ids.SecurityGroup // at launch; Network has the current ones
	PrivateIP      netip.Addr          // kept until terminated
	PrivateDNSName string

	KeyName               string
	UserData              []byte
	Metadata              MetadataOptions
	DisableAPITermination bool
	ShutdownBehavior      ShutdownBehavior
	RootDeviceName        string
	RootVolume            ids.Volume
	DeleteRootOnTerminate bool
	ClientToken           string
	Simulated             bool // runs on a host with the fake driver: no guest exists
	Tags                  map[string]string
}

// Reservation is the set of instances that one RunInstances launched, by launch index.
type Reservation struct {
	ID        ids.Reservation
	Account   ids.Account
	Instances []*Instance
}

// StateChange is one row of the answer to Start, Stop and Terminate.
type StateChange struct {
	Instance          ids.Instance
	Previous, Current State
}

// VolumeState is a volume's state.
type VolumeState uint8

const (
	VolumeCreating VolumeState = iota
	VolumeInUse
	VolumeAvailable
	VolumeDeleting
)

func (s VolumeState) String() string {
	return [...]string{"creating", "in-use", "available", "deleting"}[s]
}

// Volume is an instance's root disk. It exists as long as its instance does; with DeleteOnTermination off it stays,
// available, after its instance is gone. Reads only: volumes are not a part yet.
type Volume struct {
	ID                  ids.Volume
	Account             ids.Account
	Zone                string
	SizeGiB             int
	State               VolumeState
	CreateTime          time.Time
	Instance            ids.Instance // empty when available
	Device              string
	DeleteOnTermination bool
	Image               ids.Image // what its content began as
	Tags                map[string]string
}

// Check is the result of one status check.
type Check uint8

const (
	CheckNotApplicable Check = iota // the instance does not run
	CheckInitializing
	CheckOK
	CheckImpaired
	CheckInsufficientData
)

func (c Check) String() string {
	return [...]string{"not-applicable", "initializing", "ok", "impaired", "insufficient-data"}[c]
}

// Status is an instance's health: the system check is the host's session and the VM process, the instance check is
// whether the guest answers on its network.
type Status struct {
	Instance      *Instance
	System        Check
	Reachability  Check
	ImpairedSince time.Time // of the first impaired check, zero when none
}

// Host is a machine that runs instances. What is left may be negative never; a drained host takes no new placement.
type Host struct {
	ID            ids.Host
	Name          string
	Zone          string
	Underlay      string // IPv4 address
	Accelerator   string // "kvm", "tcg" or "fake"
	Simulated     bool
	AgentVersion  string
	Kernel        string
	VCPUs         int // schedulable, overcommit included
	MemoryMiB     int
	DiskGiB       int
	LeftVCPUs     int
	LeftMemoryMiB int
	LeftDiskGiB   int
	Instances     int // placements, releasing ones included
	Draining      bool
	Connected     bool
	Awaited       bool      // not heard by this server yet, and counted on: see HostAwaitedFor
	LastHeard     time.Time // zero: not since this server started
}

// Zone is an availability zone: the hosts that report its name.
type Zone struct {
	Name  string
	ID    string // "usn1-az1"
	Hosts int
	Up    int // hosts connected or awaited
}
