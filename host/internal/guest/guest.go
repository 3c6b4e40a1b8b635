// Package guest is what the services that a host runs for its guests know of them. The services are its subpackages:
// metadata (169.254.169.254), dhcp, resolver and ntp.
//
// A service never learns who asks from what the packet says: the data path rewrites the source of a request to an
// address that stands for the guest's port, and Directory turns that address into the guest. A guest cannot forge it.
//
// Deliberately absent: sockets. Callers pass listeners that are bound on the service path.
package guest

import (
	"net/netip"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// The well-known addresses that guests ask, as in EC2.
var (
	MetadataAddress = netip.MustParseAddr("169.254.169.254")
	ResolverAddress = netip.MustParseAddr("169.254.169.253")
	TimeAddress     = netip.MustParseAddr("169.254.169.123")
)

// Guest is one guest's port together with the instance behind it.
type Guest struct {
	Interface  host.Interface
	Instance   host.Instance
	Interfaces []host.Interface // all of the instance, by device index
	MTU        int              // bytes, of this interface
}

// Directory tells services who asks and who else there is. Implementations are safe for concurrent use and answer from
// memory: services work on when the control plane is away.
type Directory interface {
	// Guest returns the guest whose port the data path gave the source address.
	Guest(source netip.Addr) (Guest, bool)
	// Mapped returns the mapping of an address of a VPC.
	Mapped(vpc ids.VPC, address netip.Addr) (host.Mapping, bool)
	// Address returns the primary private address of an instance of a VPC.
	Address(vpc ids.VPC, instance ids.Instance) (netip.Addr, bool)
}
