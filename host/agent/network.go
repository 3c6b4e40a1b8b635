package agent

import (
	"context"
	"net"
	"os"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Network is what the agent needs of the data path. Its methods are safe for concurrent use.
type Network interface {
	// Apply makes the data path what state says. It may be repeated, and is given all of it each time.
	Apply(ctx context.Context, state NetworkState) error
	// OpenTap makes an interface's port and returns its tap, which the caller closes; the machine inherits it first.
	OpenTap(ctx context.Context, in host.Interface, vnetHeader bool) (*os.File, error)
	// CloseTap removes an interface's port. It is no error that there is none.
	CloseTap(ctx context.Context, id ids.Interface) error
	// LastHeard is when the guest last sent anything; zero is never.
	LastHeard(id ids.Interface) (time.Time, error)
	// Probe asks every guest for a sign of life, which LastHeard shows.
	Probe() error
	// DialGuest connects to a guest's TCP port by the service path, outside its security groups.
	DialGuest(ctx context.Context, id ids.Interface, port int) (net.Conn, error)
	// MTU is of the guests.
	MTU() int
}

// NetworkState is everything the data path is to do.
type NetworkState struct {
	Ports   []Port
	Orphans []ids.Interface // named by another history alone: cut off, for their addresses may be others' by now
	VPCs    []VPC
	Hosts   []host.FleetHost
}

// Port is an interface of a guest on this host.
type Port struct {
	Interface host.Interface
	HopLimit  int // of metadata answers, 1 to 64
}

// VPC is what the host must know of a network to send and receive in it.
type VPC struct {
	ID         ids.VPC
	VNI        uint32
	Mappings   []host.Mapping
	Identities []host.Identity
	Groups     []host.Group
}
