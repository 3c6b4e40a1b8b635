package datapath

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/nimbrel/nimbrel/internal/ids"
	"golang.org/x/sys/unix"
)

// ListenService listens on 169.254.169.254:port in the service namespace for what guests send to a service: TCP 80
// (metadata) and 53, see ListenServicePacket for UDP. A connection's peer address tells its interface: InterfaceBySource.
//
// Several agents may listen at once (SO_REUSEPORT), so that a new one takes over before the old one closes. While none
// does, guests' connections wait for the next agent instead of being refused.
func (d *Datapath) ListenService(ctx context.Context, network string, port int) (net.Listener, error) {
	var listener net.Listener
	err := d.service.do(func() (err error) {
		listener, err = serviceSocket().Listen(ctx, network, serviceEndpoint(port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for service %s %d: %w", network, port, err)
	}
	return listener, nil
}

// ListenServicePacket is ListenService for UDP: 67 (DHCP), 53 and 123. Answer to the peer address as it came; replies
// from port 67 reach a guest that has no address yet as broadcasts.
func (d *Datapath) ListenServicePacket(ctx context.Context, network string, port int) (net.PacketConn, error) {
	var conn net.PacketConn
	err := d.service.do(func() (err error) {
		conn, err = serviceSocket().ListenPacket(ctx, network, serviceEndpoint(port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for service %s %d: %w", network, port, err)
	}
	return conn, nil
}

func serviceEndpoint(port int) string {
	return netip.AddrPortFrom(AddrMetadata, uint16(port)).String()
}

func serviceSocket() *net.ListenConfig {
	config := &net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var option error
		err := raw.Control(func(fd uintptr) {
			option = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		if err != nil {
			return err
		}
		return option
	}}
	config.SetMultipathTCP(false)
	return config
}

// DialGuest opens a TCP connection to a port of an interface's guest, past its security groups. The guest sees it come
// from 169.254.169.254. A connection ends with the interface's port: the slot's next guest gets nothing of it. The caller
// audits who asked.
func (d *Datapath) DialGuest(ctx context.Context, id ids.Interface, tcpPort int) (net.Conn, error) {
	to, err := d.dialAddress(id)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = d.service.do(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: AddrMetadata.AsSlice()}}
		conn, err = dialer.DialContext(ctx, "tcp4", netip.AddrPortFrom(to, uint16(tcpPort)).String())
		return err
	})
	if err != nil {
		// The address in the cause is the path's own; name the guest's as its user knows it.
		return nil, fmt.Errorf("dial guest of %s, port %d: %w", id, tcpPort, shorten(err))
	}
	return conn, nil
}

// dialAddress names the port and this use of its slot: what is sent there once the port is closed reaches nobody, also
// when the slot has another guest by then.
func (d *Datapath) dialAddress(id ids.Interface) (netip.Addr, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	open := d.portOf(id)
	if open == nil {
		return netip.Addr{}, fmt.Errorf("dial guest of %s: %w", id, ErrNoPort)
	}
	return serviceAddress(open.slot, open.record.Epoch), nil
}

func shorten(err error) error {
	if op, ok := err.(*net.OpError); ok && op.Err != nil && !strings.Contains(op.Err.Error(), "100.64.") {
		return op.Err
	}
	return err
}
