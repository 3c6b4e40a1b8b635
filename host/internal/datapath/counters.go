package datapath

import "time"

// Reason is why a packet was dropped.
type Reason uint8

// Reasons, in the order of the kernel's counters.
const (
	SpoofMAC Reason = iota
	SpoofIP
	SpoofARP
	Protocol // neither IPv4 nor ARP, or VLAN-tagged
	Malformed
	DeniedEgress
	DeniedIngress
	NoMapping // nobody in the VPC has that address
	NoIdentity
	Forged   // a tunnel packet whose source host does not hold the source address
	Fragment // a later fragment without its first, or one cut too short
	TooBig   // answered with ICMP fragmentation needed
	Untracked
	Service  // to a link-local or host address that serves nothing
	Internal // a map was full or a kernel helper failed
	reasons
)

var reasonNames = [reasons]string{
	"spoof_mac", "spoof_ip", "spoof_arp", "protocol", "malformed", "denied_egress", "denied_ingress", "no_mapping",
	"no_identity", "forged", "fragment", "too_big", "untracked", "service", "internal",
}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return "unknown"
}

// Reasons lists every reason.
func Reasons() []Reason {
	all := make([]Reason, reasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// dropsAt is the kernel's number of the first drop counter.
const dropsAt = 5

// Counters of one port since its tap was opened. Counts of the two directions are of packets that were accepted.
type Counters struct {
	FromGuestPackets, FromGuestBytes uint64
	ToGuestPackets, ToGuestBytes     uint64
	ServicePackets                   uint64 // to the host's own servers
	Drops                            [reasons]uint64
}

// add sums counts.
func (c *Counters) add(more Counters) {
	c.FromGuestPackets += more.FromGuestPackets
	c.FromGuestBytes += more.FromGuestBytes
	c.ToGuestPackets += more.ToGuestPackets
	c.ToGuestBytes += more.ToGuestBytes
	c.ServicePackets += more.ServicePackets
	for i, n := range more.Drops {
		c.Drops[i] += n
	}
}

// Dropped is the count of one reason.
func (c Counters) Dropped(r Reason) uint64 { return c.Drops[r] }

func countersOf(raw [counters]uint64) Counters {
	c := Counters{
		FromGuestPackets: raw[0], FromGuestBytes: raw[1], ToGuestPackets: raw[2], ToGuestBytes: raw[3], ServicePackets: raw[4],
	}
	copy(c.Drops[:], raw[dropsAt:])
	return c
}

// Seen is when a guest last showed signs of life, each to about a second; zero is never.
type Seen struct {
	ARP, DHCP, IP time.Time
}
