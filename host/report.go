package host

import "github.com/nimbrel/nimbrel/internal/ids"

// Info is what a host says of itself when its session begins.
type Info struct {
	ID           ids.Host `cbor:"1,keyasint,omitempty"`
	Name         string   `cbor:"2,keyasint,omitempty"`
	Zone         string   `cbor:"3,keyasint,omitempty"`
	Underlay     string   `cbor:"4,keyasint,omitempty"` // IPv4 address of the tunnel end; "" when the host has no network
	VCPUs        int      `cbor:"5,keyasint,omitempty"` // schedulable: what instances may add up to
	MemoryMiB    int      `cbor:"6,keyasint,omitempty"` // schedulable, guests' overhead included
	DiskGiB      int      `cbor:"7,keyasint,omitempty"` // schedulable
	Accelerator  string   `cbor:"8,keyasint,omitempty"` // "kvm", "tcg" or "fake"
	Simulated    bool     `cbor:"9,keyasint,omitempty"` // no guest really runs here
	AgentVersion string   `cbor:"10,keyasint,omitempty"`
	Kernel       string   `cbor:"11,keyasint,omitempty"`
	BootID       string   `cbor:"12,keyasint,omitempty"` // changes when the machine boots: its guests are gone then
	// Key 13 was an overhead of the host's own, which nothing read: see GuestOverheadMiB.
}

// VMState is what a guest is doing, as its host sees it.
type VMState uint8

const (
	VMPreparing   VMState = 1 // its image, disk or ports are being made ready
	VMRunning     VMState = 2 // its machine runs; says nothing of the guest's software
	VMStopping    VMState = 3 // asked to power down
	VMStopped     VMState = 4 // off; its disk is kept
	VMFailed      VMState = 5 // could not be started, or died; Reason and Code say why
	VMQuarantined VMState = 6 // runs, but no document ever named it; left alone
)

func (s VMState) String() string {
	return nameOf(s, "none", "preparing", "running", "stopping", "stopped", "failed", "quarantined")
}

// Reach says whether the guest has been heard on its network.
type Reach uint8

const (
	ReachInitializing Reach = 0 // running, and not heard yet
	ReachOK           Reach = 1 // heard since it started
	ReachImpaired     Reach = 2 // silent to 60 s of ARP probes
)

func (r Reach) String() string { return nameOf(r, "initializing", "ok", "impaired") }

// Codes of a state's cause, spelled as EC2 spells a state reason's code. The list only grows.
const (
	CodeGuestShutdown = "Client.InstanceInitiatedShutdown"    // the guest powered itself off
	CodeUserShutdown  = "Client.UserInitiatedShutdown"        // stopped because the document says so
	CodeInternal      = "Server.InternalError"                // the machine died or could not be made
	CodeImage         = "Server.ImageUnavailable"             // the image could not be fetched or does not match its digest
	CodeNetwork       = "Server.NetworkUnavailable"           // a port could not be made
	CodeCapacity      = "Server.InsufficientInstanceCapacity" // the host has no room for it
	CodeInvalid       = "Server.InvalidSpecification"         // the item asks for what no host could run
	CodeHostRestarted = "Server.HostRestarted"                // the machine under it booted anew
)

// InstanceStatus is a host's report on one guest. Its key in the host's actual section SectionInstances is the
// instance id; the report is deleted once a terminated instance has left nothing behind.
type InstanceStatus struct {
	ID         ids.Instance `cbor:"1,keyasint,omitempty"`
	Generation uint64       `cbor:"2,keyasint,omitempty"` // the start that State speaks of
	State      VMState      `cbor:"3,keyasint,omitempty"`
	Reason     string       `cbor:"4,keyasint,omitempty"` // for a person; at most MaxReasonBytes
	Code       string       `cbor:"5,keyasint,omitempty"` // one of the Code constants, or ""
	ExitStatus int          `cbor:"6,keyasint,omitempty"` // of the machine's process; -1 when unknown, -n for signal n
	Reach      Reach        `cbor:"7,keyasint,omitempty"`
	RebootID   string       `cbor:"8,keyasint,omitempty"`  // the last reboot that was executed
	StartedMs  int64        `cbor:"9,keyasint,omitempty"`  // Unix time of the generation's start; 0 before it
	Resets     int          `cbor:"10,keyasint,omitempty"` // times that the guest restarted itself in this generation

	// When the generation's start got how far, in Unix time of the host's clock; 0: not yet, or not known any more.
	ReceivedMs int64 `cbor:"11,keyasint,omitempty"` // the host saw the document that asks for it
	ImageMs    int64 `cbor:"12,keyasint,omitempty"` // its image was here
	PortsMs    int64 `cbor:"13,keyasint,omitempty"` // its network was programmed
	DHCPMs     int64 `cbor:"14,keyasint,omitempty"` // the guest's first DHCP message, good to a second
}

// ConsoleRequest is the header of a StreamConsole stream. The host writes the serial console's bytes and closes.
type ConsoleRequest struct {
	Instance  ids.Instance `cbor:"1,keyasint,omitempty"`
	TailBytes int          `cbor:"2,keyasint,omitempty"` // how much of the past, at most MaxConsoleBytes; 0 means all of that
	Follow    bool         `cbor:"3,keyasint,omitempty"` // go on with what the guest writes until the stream is closed
}

// DialRequest is the header of a StreamDial stream. The host connects it to the guest's TCP port by the service path,
// outside the security groups.
type DialRequest struct {
	Instance  ids.Instance  `cbor:"1,keyasint,omitempty"`
	Port      uint16        `cbor:"2,keyasint,omitempty"`
	Interface ids.Interface `cbor:"3,keyasint,omitempty"` // "" means the instance's first
}
