package compute

import (
	"time"

	"github.com/nimbrel/nimbrel/host"
)

// HostStep begins the names of an operation's steps that a host timed, by its own clock.
const HostStep = "host: "

const (
	// MaxPerRequest is the most instances one RunInstances may ask for.
	MaxPerRequest = 30
	// MaxUserDataBytes bounds user data before base64.
	MaxUserDataBytes = 16 << 10
	// MaxRootDiskGiB bounds a root volume.
	MaxRootDiskGiB = 16384
	// MaxTags is EC2's bound of tags on one resource.
	MaxTags = 50
	// MaxTokenBytes is EC2's bound of a client token, in ASCII characters.
	MaxTokenBytes = 64
	// MaxIDsPerRequest bounds the instances that one lifecycle request may name, as in EC2.
	MaxIDsPerRequest = 1000
	// MaxPerTransaction bounds those that move in one transaction: ending one takes seven of the store's 512 guards.
	MaxPerTransaction = 64
	// GuestOverheadMiB is what a guest costs its host beyond its own memory.
	GuestOverheadMiB = host.GuestOverheadMiB
	// ConsoleTailBytes is how much of the console ConsoleOutput returns, as in EC2.
	ConsoleTailBytes = 64 << 10

	// PendingTimeout is how long one attempt to boot an instance may take. A launch gets one retry on another host within
	// PendingLimit, then it is terminated with Server.InternalError.
	PendingTimeout = 60 * time.Second
	// PendingLimit bounds the time an instance may be pending.
	PendingLimit = 120 * time.Second
	// TerminatedFor is how long a terminated instance stays visible.
	TerminatedFor = time.Hour
	// HostDownAfter is how long a host may be silent before the system status of its instances is impaired.
	HostDownAfter = 30 * time.Second
	// HostAwaitedFor is how long a new server counts on a host that the one before had not lost: an agent that has tried
	// for long tries again after at most dispatch.ReconnectCeiling, and then has to connect.
	HostAwaitedFor = 40 * time.Second
	// ReadBehind bounds how long a read waits for the view to reach the store's version at its arrival.
	ReadBehind = time.Second
)
