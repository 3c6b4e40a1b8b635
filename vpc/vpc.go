package vpc

import (
	"net/netip"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// VPC is one isolated IPv4 network of an account.
type VPC struct {
	ID          ids.VPC
	Account     ids.Account
	CIDR        netip.Prefix // masked
	CIDRID      ids.VPCCIDR  // association id of CIDR
	VNI         uint32       // 24 bits, unique for ever
	Default     bool
	DHCPOptions ids.DHCPOptions
	// The three that were made with the VPC and go with it.
	MainRouteTable ids.RouteTable
	DefaultACL     ids.NetworkACL
	DefaultGroup   ids.SecurityGroup
	DNSSupport     bool
	DNSHostnames   bool
	Created        time.Time
	Tags           map[string]string
}

// Subnet is a range of a VPC in one zone.
type Subnet struct {
	ID      ids.Subnet
	Account ids.Account
	VPC     ids.VPC
	CIDR    netip.Prefix // masked
	Zone    string
	Default bool // the zone's subnet for launches that name none
	// MapPublicIPOnLaunch is stored and shown; there are no public addresses yet, so it has no effect.
	MapPublicIPOnLaunch bool
	// AvailableAddresses is what an interface can still take. It moves with every launch; only Describe fills it.
	AvailableAddresses int
	Created            time.Time
	Tags               map[string]string
}

// MAC is an Ethernet address.
type MAC [6]byte

// String returns six colon-separated pairs of lower-case hex digits.
func (m MAC) String() string {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, 17)
	for i, b := range m {
		if i > 0 {
			out = append(out, ':')
		}
		out = append(out, hex[b>>4], hex[b&15])
	}
	return string(out)
}

// InterfaceState says what holds an interface's address.
type InterfaceState uint8

// The states of an interface. There is no unattached state: launch is what creates interfaces.
const (
	InterfaceInUse     InterfaceState = 1 // attached to an instance
	InterfaceReleasing InterfaceState = 2 // told to go; waiting for its host's word
)

// String returns the state's name for people.
func (s InterfaceState) String() string {
	switch s {
	case InterfaceInUse:
		return "in-use"
	case InterfaceReleasing:
		return "releasing"
	}
	return "unknown"
}

// Interface is a port of an instance in a subnet.
type Interface struct {
	ID                  ids.Interface
	Account             ids.Account
	VPC                 ids.VPC
	Subnet              ids.Subnet
	Zone                string
	Address             netip.Addr
	MAC                 MAC
	PrivateDNSName      string
	Groups              []ids.SecurityGroup // sorted
	Identity            uint16              // of Groups within VPC
	State               InterfaceState
	Instance            ids.Instance
	Host                ids.Host
	Attachment          ids.InterfaceAttachment
	DeviceIndex         int
	DeleteOnTermination bool
	SourceDestCheck     bool
	Description         string
	Created             time.Time
	Tags                map[string]string
}

// RouteTable is a VPC's main table: one local route over the VPC's range.
type RouteTable struct {
	ID          ids.RouteTable
	Account     ids.Account
	VPC         ids.VPC
	Association ids.RouteTableAssociation // the implied main association
	Local       netip.Prefix
	Tags        map[string]string
}

// NetworkACL is a VPC's default list: rule 100 allows all and rule 32767 denies the rest, both ways. Every subnet of the
// VPC is associated with it.
type NetworkACL struct {
	ID           ids.NetworkACL
	Account      ids.Account
	VPC          ids.VPC
	Associations []ACLAssociation // by subnet
	Tags         map[string]string
}

// ACLAssociation ties a subnet to its network ACL.
type ACLAssociation struct {
	ID     ids.NetworkACLAssociation
	Subnet ids.Subnet
}

// DHCPOptions is an account's default set: the region's private domain and the VPC resolver.
type DHCPOptions struct {
	ID         ids.DHCPOptions
	Account    ids.Account
	DomainName string
	Tags       map[string]string
}

// Identity is the number by which hosts know a set of groups of one VPC.
type Identity struct {
	VPC    ids.VPC
	Number uint16
	Groups []ids.SecurityGroup // sorted, without repetition
}
