//go:build !linux

package datapath

import (
	"context"
	"net"
	"net/netip"
	"os"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Datapath needs Linux; elsewhere Open refuses, and no value exists.
type Datapath struct{ _ struct{} }

// Open refuses with ErrUnsupported.
func Open(context.Context, Options) (*Datapath, error) { return nil, ErrUnsupported }

// Destroy refuses with ErrUnsupported.
func Destroy(Options) error { return ErrUnsupported }

func (*Datapath) Apply(context.Context, State) error { return ErrUnsupported }
func (*Datapath) OpenTap(context.Context, host.Interface, bool) (*os.File, error) {
	return nil, ErrUnsupported
}
func (*Datapath) CloseTap(context.Context, ids.Interface) error { return ErrUnsupported }
func (*Datapath) MTU() int                                      { return 0 }
func (*Datapath) Close() error                                  { return ErrUnsupported }
func (*Datapath) Port(int) (host.Interface, bool)               { return host.Interface{}, false }
func (*Datapath) InterfaceBySource(netip.Addr) (host.Interface, bool) {
	return host.Interface{}, false
}
func (*Datapath) Counters(ids.Interface) (Counters, error) { return Counters{}, ErrUnsupported }
func (*Datapath) HostCounters() (Counters, error)          { return Counters{}, ErrUnsupported }
func (*Datapath) Drops() (Counters, error)                 { return Counters{}, ErrUnsupported }
func (*Datapath) LastSeen(ids.Interface) (Seen, error)     { return Seen{}, ErrUnsupported }
func (*Datapath) ProbeGuests() error                       { return ErrUnsupported }
func (*Datapath) ListenService(context.Context, string, int) (net.Listener, error) {
	return nil, ErrUnsupported
}
func (*Datapath) ListenServicePacket(context.Context, string, int) (net.PacketConn, error) {
	return nil, ErrUnsupported
}
func (*Datapath) DialGuest(context.Context, ids.Interface, int) (net.Conn, error) {
	return nil, ErrUnsupported
}
