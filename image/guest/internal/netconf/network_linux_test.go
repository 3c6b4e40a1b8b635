package netconf

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const limit = 30 * time.Second

// wireServer is a DHCP server on a packet socket, since its client has no address yet.
type wireServer struct {
	mu      sync.Mutex
	options []dhcpv4.Option
	refuse  bool
	asked   map[dhcpv4.MessageType]int
}

func (s *wireServer) serve(fd int, index int) {
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if n < 28 || buf[9] != unix.IPPROTO_UDP || int(buf[22])<<8|int(buf[23]) != serverPort {
			continue
		}
		m, err := dhcpv4.FromBytes(buf[28:n])
		if err != nil {
			continue
		}
		reply := wrap(s.answer(m).ToBytes(), netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("255.255.255.255"))
		reply[20], reply[21], reply[22], reply[23] = 0, serverPort, 0, clientPort
		reply[26], reply[27] = 0, 0 // wrap summed other ports
		_ = unix.Sendto(fd, reply, 0, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: index, Halen: 6,
			Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
	}
}

func (s *wireServer) answer(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[m.MessageType()]++
	kind := dhcpv4.MessageTypeAck
	switch {
	case m.MessageType() == dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case s.refuse:
		kind, s.refuse = dhcpv4.MessageTypeNak, false
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 9, 0, 5)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 1))))
	if err != nil {
		panic(err)
	}
	for _, option := range s.options {
		reply.UpdateOption(option)
	}
	return reply
}

func (s *wireServer) change(refuse bool, options ...dhcpv4.Option) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options, s.refuse = options, refuse
}

// inNamespace runs the test in a network namespace of its own, on a locked thread that is thrown away.
func inNamespace(t *testing.T, body func(t *testing.T)) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine, and the namespace with it
		ns, err := netns.New()
		if err != nil {
			t.Errorf("make network namespace: %v", err)
			return
		}
		defer ns.Close()
		body(t)
	}()
	<-done
}

// TestClientAgainstServer drives one client, without the goroutines of Network, which would leave the namespace.
func TestClientAgainstServer(t *testing.T) { inNamespace(t, clientAgainstServer) }

func clientAgainstServer(t *testing.T) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "srv"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Error(err)
		return
	}
	eth, srv := link(t, "eth0"), link(t, "srv")
	if eth == nil || srv == nil {
		return
	}
	server := &wireServer{asked: map[dhcpv4.MessageType]int{}}
	server.change(false, raw(dhcpv4.OptionInterfaceMTU, 0x05, 0x78), raw(dhcpv4.OptionRouter, 10, 9, 0, 1),
		raw(dhcpv4.OptionClasslessStaticRoute, 32, 169, 254, 169, 254, 0, 0, 0, 0, 0, 10, 9, 0, 1))
	w, err := openWire(srv.Attrs().Index, srv.Attrs().HardwareAddr)
	if err != nil {
		t.Error(err)
		return
	}
	go server.serve(w.fd, w.index)
	defer func() {
		_ = unix.Shutdown(w.fd, unix.SHUT_RDWR)
		w.close()
	}()

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := &client{name: "eth0", index: eth.Attrs().Index, mac: eth.Attrs().HardwareAddr}
	own, err := openWire(c.index, c.mac)
	if err != nil {
		t.Error(err)
		return
	}
	defer own.close()
	lease, err := c.acquire(ctx, own, firstWait)
	if err != nil {
		t.Errorf("acquire: %v", err)
		return
	}
	if err := apply(c.index, lease); err != nil {
		t.Errorf("apply: %v", err)
	}
	checkInterface(t, 1400, "10.9.0.5/24", map[string]string{"169.254.169.254/32": "<nil>", "0.0.0.0/0": "10.9.0.1"})

	// A renewed lease with another MTU takes the place of the first; a refused one ends it.
	addNeighbour(t, c.index, srv.Attrs().HardwareAddr)
	server.change(false, raw(dhcpv4.OptionInterfaceMTU, 0x05, 0x14), raw(dhcpv4.OptionRouter, 10, 9, 0, 1))
	next, err := c.extendOnce(ctx, lease, lease.Server)
	if err != nil || next.MTU != 1300 {
		t.Errorf("renew: %+v, %v", next, err)
	} else if err := apply(c.index, next); err != nil {
		t.Errorf("apply again: %v", err)
	}
	checkInterface(t, 1300, "10.9.0.5/24", map[string]string{"0.0.0.0/0": "10.9.0.1"})
	server.change(true)
	if _, err := c.extendOnce(ctx, next, next.Server); err != errRefused {
		t.Errorf("a refusal gives %v", err)
	}
	if err := withdraw(c.index, next); err != nil {
		t.Error(err)
	}
	if list, err := netlink.AddrList(eth, netlink.FAMILY_V4); err != nil || len(list) != 0 {
		t.Errorf("addresses after the lease: %v, %v", list, err)
	}
}

// addNeighbour stands in for ARP: the server's end of the pair has no address to answer for.
func addNeighbour(t *testing.T, index int, mac net.HardwareAddr) {
	err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, IP: net.IPv4(10, 9, 0, 1), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
	if err != nil {
		t.Error(err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	return l
}

func checkInterface(t *testing.T, mtu int, addr string, routes map[string]string) {
	t.Helper()
	l, err := netlink.LinkByName("eth0")
	if err != nil || l.Attrs().MTU != mtu {
		t.Errorf("MTU %d, want %d (%v)", l.Attrs().MTU, mtu, err)
	}
	list, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil || len(list) != 1 || list[0].IPNet.String() != addr {
		t.Errorf("addresses %v, want %s (%v)", list, addr, err)
	}
	got, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil {
		t.Error(err)
	}
	found := map[string]string{}
	for _, r := range got {
		if r.Dst != nil {
			found[r.Dst.String()] = r.Gw.String()
		}
	}
	for dst, via := range routes {
		if found[dst] != via {
			t.Errorf("route %s via %q, want %q; all: %v", dst, found[dst], via, found)
		}
	}
}
