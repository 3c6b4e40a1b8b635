package host

import (
	"net/netip"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Mapping says where an address of a VPC lives. Its key in SectionMappings is the interface id.
//
// A host publishes identities and groups to its data path before the mapping that uses them: a packet whose identity is
// not known is dropped.
type Mapping struct {
	Interface     ids.Interface `cbor:"1,keyasint,omitempty"`
	SubnetCIDR    string        `cbor:"2,keyasint,omitempty"`
	AddressOffset uint64        `cbor:"3,keyasint,omitempty"` // as Interface.AddressOffset; known at commit
	MAC           [6]byte       `cbor:"4,keyasint,omitempty"`
	Host          ids.Host      `cbor:"5,keyasint,omitempty"` // chosen at commit
	Identity      uint16        `cbor:"6,keyasint,omitempty"`
	Instance      ids.Instance  `cbor:"7,keyasint,omitempty"` // for the resolver's names
	VNI           uint32        `cbor:"8,keyasint,omitempty"`
}

// Address is the mapped address, or an error when the subnet and offset make none.
func (m *Mapping) Address() (netip.Addr, error) { return addressAt(m.SubnetCIDR, m.AddressOffset) }

// Identity is an interned set of security groups. Its key in SectionIdentities is its number in decimal.
// Numbers are per VPC; one is reused only after every host acked past its last use.
type Identity struct {
	Number uint16              `cbor:"1,keyasint,omitempty"`
	Groups []ids.SecurityGroup `cbor:"2,keyasint,omitempty"` // sorted
}

// Group is a security group's rules. Its key in SectionGroups is its id.
type Group struct {
	ID      ids.SecurityGroup `cbor:"1,keyasint,omitempty"`
	Ingress []Rule            `cbor:"2,keyasint,omitempty"`
	Egress  []Rule            `cbor:"3,keyasint,omitempty"`
}

// PortAny as a Rule's FromPort or ToPort stands for EC2's -1: any port, or any ICMP type or code.
const PortAny = 0xffff

// Rule allows new flows of one kind from or to one peer: an address block, or the members of a group. Replies of an
// allowed flow need no rule.
type Rule struct {
	ID       ids.SecurityGroupRule `cbor:"1,keyasint,omitempty"`
	Protocol uint8                 `cbor:"2,keyasint,omitempty"` // IP protocol number; 0 when Any
	Any      bool                  `cbor:"3,keyasint,omitempty"` // every protocol and port
	// FromPort and ToPort bound the destination port, both included; for ICMP they are type and code. PortAny is any.
	FromPort uint16            `cbor:"4,keyasint,omitempty"`
	ToPort   uint16            `cbor:"5,keyasint,omitempty"`
	CIDR     string            `cbor:"6,keyasint,omitempty"` // peer block, or "" when Group is set
	Group    ids.SecurityGroup `cbor:"7,keyasint,omitempty"` // peer group, or ""
}

// FleetHost is where a host is reached by other hosts. Its key in SectionHosts is its id.
type FleetHost struct {
	ID       ids.Host `cbor:"1,keyasint,omitempty"`
	Underlay string   `cbor:"2,keyasint,omitempty"` // IPv4 address of its tunnel end
	Zone     string   `cbor:"3,keyasint,omitempty"`
}
