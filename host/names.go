package host

import "github.com/nimbrel/nimbrel/internal/ids"

// Sections of a host's own desired document.
const (
	SectionInstances  = "instances"  // key: instance id, payload: Instance
	SectionInterfaces = "interfaces" // key: interface id, payload: Interface
	SectionSettings   = "settings"   // key: setting name
)

// Sections of a VPC's document.
const (
	SectionMappings   = "mappings"   // key: interface id, payload: Mapping
	SectionIdentities = "identities" // key: decimal identity number, payload: Identity
	SectionGroups     = "groups"     // key: security group id, payload: Group
)

// DocFleet is the document that every host follows: which hosts there are and where they are reached.
const DocFleet = "fleet"

// SectionHosts is the only section of DocFleet. Key: host id, payload: FleetHost.
const SectionHosts = "hosts"

// Streams that a host serves. Their headers are ConsoleRequest and DialRequest. StreamImage goes the other way.
const (
	StreamConsole = "console"
	StreamDial    = "dial"
)

const (
	docHostPrefix = "host/"
	docVPCPrefix  = "vpc/"
)

// DocHost names a host's own document. It is also the host's target name on the host link.
func DocHost(id ids.Host) string { return docHostPrefix + string(id) }

// DocHostPrefix is what DocHost puts before the id, for a writer that learns the id only at commit.
func DocHostPrefix() string { return docHostPrefix }

// DocVPC names the document of a VPC's mappings and policy.
func DocVPC(id ids.VPC) string { return docVPCPrefix + string(id) }

// GuestOverheadMiB is what a guest costs its host beyond its own memory: the emulator's text, translation buffer and
// queues, measured at 80 to 110. Placement charges it with every instance; the host allows it. It is one constant, so that
// a placement costs the same on every host that it may be moved to.
const GuestOverheadMiB = 160

// Limits of one item. They bound what a host must hold in memory; a writer refuses what exceeds them.
const (
	MaxInterfaces     = 8         // of an instance; this release attaches one
	MaxGroups         = 16        // security groups of an interface
	MaxRules          = 1000      // rules of a group, each direction
	MaxVPCCIDRs       = 5         // address blocks of a VPC
	MaxTags           = 50        // tags of an instance
	MaxUserDataBytes  = 16 << 10  // as EC2
	MaxConsoleBytes   = 64 << 10  // of a console tail, as EC2
	MaxVCPUs          = 256       // of an instance
	MaxMemoryMiB      = 4 << 20   // of an instance: 4 TiB
	MaxRootDiskGiB    = 16 << 10  // of an instance
	MaxItemBytes      = 128 << 10 // of one encoded item
	MaxReasonBytes    = 1 << 10   // of InstanceStatus.Reason
	MinUnderlayMTU    = 1280      // below this no guest MTU is left that IPv6 would accept
	EncapsulationCost = 50        // bytes that a packet grows by on the underlay: outer IPv4, UDP, VXLAN, inner Ethernet
)
