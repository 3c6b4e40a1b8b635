package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/nimbrel/nimbrel/host"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stack is a guest with a real network stack: a namespace with a tap of its own, whose frames are carried to the guest's
// tap and back, offloads and all. It stands for a virtual machine's network card.
type stack struct {
	vpc   *vpc
	host  int
	in    host.Interface
	addr  netip.Addr
	space *namespace
	tap   *os.File
}

func (v *vpc) stack(on int, address string, groups ...int) *stack {
	v.t.Helper()
	in := v.describe(on, address, groups...)
	addr, _ := in.Address()
	s := &stack{vpc: v, host: on, in: in, addr: addr}
	var err error
	s.tap, err = v.hosts[on].OpenTap(context.Background(), in, v.leg.vnet)
	check(v.t, err)
	v.fabric.state[on].Ports = append(v.fabric.state[on].Ports, Port{Interface: in, HopLimit: 1})
	s.space, err = ensureNamespace(fmt.Sprintf("/run/netns/nbxt-%d-%d-g", os.Getpid(), fabrics.Add(1)))
	check(v.t, err)
	card, err := s.space.openTap("eth0", v.leg.vnet)
	check(v.t, err)
	if v.leg.vnet {
		check(v.t, errors.Join(setOffload(s.tap), setOffload(card)))
	}
	v.t.Cleanup(func() {
		card.Close()
		s.tap.Close()
		s.space.close()
		check(v.t, removeNamespace(s.space.path))
	})
	s.configure()
	go carry(s.tap, card)
	go carry(card, s.tap)
	return s
}

func carry(from, to *os.File) {
	buffer := make([]byte, 70000)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		_, _ = to.Write(buffer[:n])
	}
}

// configure does what DHCP would.
func (s *stack) configure() {
	t := s.vpc.t
	t.Helper()
	check(t, s.space.quiet())
	card, err := s.space.links.LinkByName("eth0")
	check(t, err)
	gateway, _ := s.in.Gateway()
	address := &netlink.Addr{IPNet: &net.IPNet{IP: s.addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	check(t, errors.Join(
		s.space.links.LinkSetHardwareAddr(card, s.in.MAC[:]),
		s.space.links.LinkSetMTU(card, s.vpc.hosts[s.host].MTU()),
		s.space.links.AddrAdd(card, address),
		s.space.links.LinkSetUp(card),
		s.space.links.RouteAdd(&netlink.Route{LinkIndex: card.Attrs().Index, Gw: gateway.AsSlice()}),
	))
}

// dial connects from inside the guest.
func (s *stack) dial(network, address string) (conn net.Conn, err error) {
	err = s.space.do(func() (err error) {
		dialer := net.Dialer{Timeout: patience}
		conn, err = dialer.Dial(network, address)
		return err
	})
	return conn, err
}

func (s *stack) mustDial(network, address string) net.Conn {
	s.vpc.t.Helper()
	conn, err := s.dial(network, address)
	if err != nil {
		s.vpc.t.Fatalf("guest %v dials %s: %v", s.addr, address, err)
	}
	s.vpc.t.Cleanup(func() { conn.Close() })
	return conn
}

// echo serves TCP on a port inside the guest: it sends back what it gets.
func (s *stack) echo(port int) {
	t := s.vpc.t
	t.Helper()
	var listener net.Listener
	check(t, s.space.do(func() (err error) {
		listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { listener.Close() })
	go serveEcho(listener, nil)
}

// serveEcho sends back what it gets, after a greeting.
func serveEcho(listener net.Listener, greet func(net.Addr) string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if greet != nil {
				_, _ = io.WriteString(conn, greet(conn.RemoteAddr()))
			}
			_, _ = io.Copy(conn, conn)
			if half, ok := conn.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		}()
	}
}

// snmp reads a counter of a namespace, such as "Ip FragCreates".
func snmp(t testing.TB, space *namespace, section, name string) int {
	t.Helper()
	var text []byte
	check(t, space.do(func() (err error) {
		text, err = os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/snmp", unix.Gettid()))
		return err
	}))
	return snmpField(t, string(text), section, name)
}
