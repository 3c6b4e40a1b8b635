// Package fabric builds the network under a one-machine cloud: one namespace with a bridge, and one namespace per host
// joined to it.
//
// The bridge lives in a namespace of its own, so that firewalls and bridge filters of the machine (Docker, ufw,
// br_netfilter) never see the hosts' traffic; the machine's own namespace gets exactly one veth. Ensure is idempotent and
// repairs what is missing; Destroy removes everything that Ensure made and is idempotent too.
//
// Deliberately absent: the hosts' data plane (taps, VXLAN, programs). The host agent makes that in a namespace of its own.
package fabric

import (
	"fmt"
	"net/netip"
)

// MTU of the underlay in bytes: a guest's 1,500 plus VXLAN's 50, with room to see an oversized packet arrive whole.
const MTU = 1600

// MaxHosts bounds the hosts of one fabric; addresses .11 upwards of a /24 are theirs.
const MaxHosts = 64

// Plan names everything that a fabric consists of. Two plans with different prefixes do not touch each other.
type Plan struct {
	// Prefix starts the name of each namespace and link: at most 4 bytes, so that link names stay under the kernel's 15.
	Prefix string
	// Underlay is the hosts' network. The machine itself has its first address.
	Underlay netip.Prefix
	// Hosts is how many hosts to join.
	Hosts int
}

// Host is one host's place in the fabric.
type Host struct {
	Index     int        // from 1
	Namespace string     // where its agent and its underlay address live
	DataPlane string     // the namespace without addresses, made by the agent
	Services  string     // the namespace of guests' services, made by the agent
	Device    string     // underlay link inside Namespace
	Address   netip.Addr // underlay address
}

// Validate reports the first thing wrong with a plan.
func (p Plan) Validate() error {
	switch {
	case len(p.Prefix) == 0 || len(p.Prefix) > 4:
		return fmt.Errorf("fabric prefix %q: want 1 to 4 bytes", p.Prefix)
	case !p.Underlay.Addr().Is4() || p.Underlay.Bits() > 24:
		return fmt.Errorf("fabric underlay %v: want an IPv4 network of /24 or larger", p.Underlay)
	case p.Hosts < 0 || p.Hosts > MaxHosts:
		return fmt.Errorf("fabric hosts %d: want 0 to %d", p.Hosts, MaxHosts)
	}
	return nil
}

// SwitchNamespace is the namespace of the bridge.
func (p Plan) SwitchNamespace() string { return p.Prefix + "fab" }

// MachineDevice is the link that the machine's own namespace gets.
func (p Plan) MachineDevice() string { return p.Prefix + "root0" }

// MachineAddress is the machine's address on the underlay, where the server's host link listens.
func (p Plan) MachineAddress() netip.Addr { return p.Underlay.Masked().Addr().Next() }

// Host returns the place of host index, counted from 1.
func (p Plan) Host(index int) Host {
	base := p.Underlay.Masked().Addr().As4()
	base[3] = byte(10 + index)
	namespace := fmt.Sprintf("%sh%d", p.Prefix, index)
	return Host{
		Index:     index,
		Namespace: namespace,
		DataPlane: namespace + "d",
		Services:  namespace + "d-svc",
		Device:    "underlay0",
		Address:   netip.AddrFrom4(base),
	}
}
