package datapath

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func snmpField(t testing.TB, text, section, name string) int {
	t.Helper()
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if fields[0] != section+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := range names {
			if names[i] == name {
				var n int
				_, err := fmt.Sscan(fields[i], &n)
				check(t, err)
				return n
			}
		}
	}
	t.Fatalf("no counter %s %s", section, name)
	return 0
}

// serve starts echo servers for TCP that greet with the interface's id, and answers UDP with it.
func (h *testHost) serve(t testing.TB, tcpPorts, udpPorts []int) {
	t.Helper()
	name := func(peer net.Addr) string {
		in, ok := h.InterfaceBySource(netip.MustParseAddrPort(peer.String()).Addr())
		if !ok {
			return "nobody"
		}
		return string(in.ID)
	}
	for _, port := range tcpPorts {
		listener, err := h.ListenService(context.Background(), "tcp4", port)
		check(t, err)
		t.Cleanup(func() { listener.Close() })
		go serveEcho(listener, name)
	}
	for _, port := range udpPorts {
		conn, err := h.ListenServicePacket(context.Background(), "udp4", port)
		check(t, err)
		t.Cleanup(func() { conn.Close() })
		go func() {
			buffer := make([]byte, 2000)
			for {
				n, peer, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo([]byte(name(peer)+" "+string(buffer[:n])), peer)
			}
		}()
	}
}

func readString(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q from %v, %v: want %q", got, conn.RemoteAddr(), err, want)
	}
}

// exchange sends a body and wants it back.
func exchange(t testing.TB, conn net.Conn, size int) {
	t.Helper()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	body := make([]byte, size)
	_, _ = rand.Read(body)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(body)
		sent <- err
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatalf("read %d bytes from %v: %v", size, conn.RemoteAddr(), err)
	}
	check(t, <-sent)
	if !bytes.Equal(body, got) {
		t.Fatalf("%d bytes came back changed", size)
	}
}

// TestServices reaches every service from two guests with the same address on one host, each seen as itself.
func TestServices(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		red, blue := f.vpc(77), f.vpc(78)
		guests := []*stack{red.stack(0, "10.0.1.10"), blue.stack(0, "10.0.1.10")}
		f.apply(red, blue)
		h := f.hosts[0]
		h.serve(t, []int{80, 53}, []int{53, 123})
		for _, g := range guests {
			metadata := g.mustDial("tcp4", "169.254.169.254:80")
			readString(t, metadata, string(g.in.ID))
			exchange(t, metadata, 1<<20)
			for _, resolver := range []string{"169.254.169.253:53", "10.0.1.2:53", "10.0.0.2:53"} {
				readString(t, g.mustDial("tcp4", resolver), string(g.in.ID))
			}
			// A connected UDP socket takes answers from the address that it asked only.
			for _, service := range []string{"169.254.169.253:53", "10.0.1.2:53", "10.0.0.2:53", "169.254.169.123:123"} {
				conn := g.mustDial("udp4", service)
				_, err := io.WriteString(conn, "question")
				check(t, err)
				readString(t, conn, string(g.in.ID)+" question")
			}
			seen, err := h.LastSeen(g.in.ID)
			check(t, err)
			if age := time.Since(seen.ARP); age < -time.Second || age > patience {
				t.Errorf("ARP was last seen %v ago", age)
			}
		}
	})
}

func TestDialGuest(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		g := v.stack(0, "10.0.1.10", 1)
		v.group(1) // no ingress rule
		f.apply(v)
		var listener net.Listener
		check(t, g.space.do(func() (err error) {
			listener, err = net.Listen("tcp4", ":2222")
			return err
		}))
		defer listener.Close()
		go serveEcho(listener, func(peer net.Addr) string { return peer.(*net.TCPAddr).IP.String() })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := f.hosts[0].DialGuest(ctx, g.in.ID, 2222)
		check(t, err)
		defer conn.Close()
		readString(t, conn, "169.254.169.254")
		exchange(t, conn, 1<<20)
		if _, err := f.hosts[0].DialGuest(ctx, g.in.ID, 2223); err == nil || strings.Contains(err.Error(), "100.64.") {
			t.Errorf("dial a closed port: %v, want refused, without the path's own address", err)
		}
		if _, err := f.hosts[1].DialGuest(ctx, g.in.ID, 2222); err == nil {
			t.Error("another host reached the guest through its service path")
		}
	})
}

// TestDialReachesNoLaterGuest closes a port between the look-up and the dial, and under a connection, and gives the slot
// to another guest that listens on the same port.
func TestDialReachesNoLaterGuest(t *testing.T) {
	f := newFabric(t, legs[0])
	h := f.hosts[0]
	v := f.vpc(77)
	v.group(1)
	first := v.stack(0, "10.0.1.10", 1)
	f.apply(v)
	listen := func(g *stack) net.Listener {
		var listener net.Listener
		check(t, g.space.do(func() (err error) {
			listener, err = net.Listen("tcp4", ":2222")
			return err
		}))
		t.Cleanup(func() { listener.Close() })
		return listener
	}
	go serveEcho(listen(first), func(net.Addr) string { return "first" })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := h.DialGuest(ctx, first.in.ID, 2222)
	check(t, err)
	defer conn.Close()
	readString(t, conn, "first")
	to, err := h.dialAddress(first.in.ID)
	check(t, err)
	if in, ok := h.InterfaceBySource(to); !ok || in.ID != first.in.ID {
		t.Errorf("%v is %v, %t", to, in.ID, ok)
	}

	slot := h.portOf(first.in.ID).slot
	check(t, h.CloseTap(ctx, first.in.ID))
	h.lastSlot = slot - 1
	second := v.stack(0, "10.0.1.10", 1)
	f.apply(v)
	if now := h.portOf(second.in.ID).slot; now != slot {
		t.Fatalf("slot %d, want %d again", now, slot)
	}
	accepted := make(chan struct{}, 1)
	late := listen(second)
	go func() {
		if _, err := late.Accept(); err == nil {
			accepted <- struct{}{}
		}
	}()
	if in, ok := h.InterfaceBySource(to); ok {
		t.Errorf("the closed port's address is %v", in.ID)
	}
	dropped := func(attempt func()) {
		t.Helper()
		before, err := h.HostCounters()
		check(t, err)
		attempt()
		for {
			after, err := h.HostCounters()
			check(t, err)
			if after.Dropped(Service) > before.Dropped(Service) {
				return
			}
			select {
			case <-accepted:
				t.Fatal("the later guest was reached")
			case <-ctx.Done():
				t.Fatal("the packet was neither dropped nor delivered")
			case <-time.After(time.Millisecond):
			}
		}
	}
	dropped(func() { _, err := conn.Write([]byte("for the first guest")); check(t, err) })
	dialing, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	dropped(func() {
		go func() {
			defer close(ended)
			_ = h.service.do(func() error {
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: AddrMetadata.AsSlice()}}
				late, err := dialer.DialContext(dialing, "tcp4", netip.AddrPortFrom(to, 2222).String())
				if err == nil {
					t.Error("the later guest answered")
					late.Close()
				}
				return nil
			})
		}()
	})
	stop()
	<-ended
	again, err := h.DialGuest(ctx, second.in.ID, 2222)
	check(t, err)
	again.Close()
}

// next waits for the guest's next IPv4 frame.
func (g *guest) nextPacket() (gopacket.Packet, *layers.IPv4) {
	g.vpc.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case frame := <-g.frames:
			packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
			if ip, ok := packet.NetworkLayer().(*layers.IPv4); ok {
				verify(g.vpc.t, frame)
				return packet, ip
			}
		case <-deadline:
			g.vpc.t.Fatal("no packet came")
		}
	}
}

func TestDHCPPath(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		g := v.guest(0, "10.0.1.10")
		f.apply(v)
		f.hosts[0].serve(t, nil, []int{67})
		discover := packetSpec{proto: layers.IPProtocolUDP, src: netip.IPv4Unspecified(), dst: netip.MustParseAddr("255.255.255.255"), sport: 68, dport: 67, payload: []byte("discover")}
		renew := discover
		renew.src, renew.dst = g.addr, netip.MustParseAddr("10.0.1.1")
		direct := renew
		direct.dst = AddrMetadata
		for _, c := range []struct {
			from, to string
			packetSpec
		}{{"169.254.169.254", "255.255.255.255", discover}, {"10.0.1.1", "10.0.1.10", renew}, {"169.254.169.254", "10.0.1.10", direct}} {
			p := c.packetSpec
			g.write(g.build(p))
			packet, ip := g.nextPacket()
			ether := packet.LinkLayer().(*layers.Ethernet)
			if ip.SrcIP.String() != c.from || ip.DstIP.String() != c.to || !bytes.Equal(ether.DstMAC, g.in.MAC[:]) || !bytes.Equal(ether.SrcMAC, GatewayMAC) {
				t.Errorf("DHCP answer %v to %v, MAC %v to %v", ip.SrcIP, ip.DstIP, ether.SrcMAC, ether.DstMAC)
			}
			if udp := packet.TransportLayer().(*layers.UDP); udp.SrcPort != 67 || udp.DstPort != 68 || string(udp.Payload) != string(g.in.ID)+" discover" {
				t.Errorf("DHCP answer %d to %d: %q", udp.SrcPort, udp.DstPort, udp.Payload)
			}
		}
		seen, err := f.hosts[0].LastSeen(g.in.ID)
		check(t, err)
		if seen.DHCP.IsZero() || !seen.ARP.IsZero() {
			t.Errorf("seen %+v: want DHCP and no ARP", seen)
		}
		lie := direct
		lie.src = netip.MustParseAddr("10.0.1.77")
		if got := g.send(g, g.build(lie), []byte("never")); got.reason != SpoofIP {
			t.Errorf("DHCP from a foreign address: %v", got)
		}
	})
}

// TestMetadataHopLimit sees a SYN answered with the hop limit as its TTL, and with nothing at all while nobody listens.
func TestMetadataHopLimit(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		g := v.guest(0, "10.0.1.10")
		f.state[0].Ports[0].HopLimit = 3
		f.apply(v)
		syn := tcp(80)
		syn.dst = AddrMetadata
		if got := g.send(g, g.build(syn), []byte("never")); got.reason != Service {
			t.Errorf("refusal while nobody listens: %v, want it dropped", got)
		}
		f.hosts[0].serve(t, []int{80}, nil)
		syn.sport++
		g.write(g.build(syn))
		packet, ip := g.nextPacket()
		answer := packet.TransportLayer().(*layers.TCP)
		if ip.TTL != 3 || ip.SrcIP.String() != "169.254.169.254" || !answer.SYN || !answer.ACK {
			t.Errorf("answer from %v with TTL %d: %+v", ip.SrcIP, ip.TTL, answer)
		}
	})
}

// TestGuestsReachNoHost tries what a guest could know of its host.
func TestGuestsReachNoHost(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
		f.apply(v)
		f.hosts[0].serve(t, []int{80, 8080}, nil)
		for address, want := range map[string]Reason{
			"10.99.0.1": NoMapping, "10.99.0.2": NoMapping, "100.64.0.2": NoMapping, "127.0.0.1": NoMapping, "10.0.1.1": NoMapping,
			"169.254.169.254": Service, "169.254.1.1": Service, "169.254.169.253": Service, "224.0.0.1": NoMapping, "255.255.255.255": NoMapping,
		} {
			for _, p := range []packetSpec{tcp(8080), udp(4789), ping(3)} {
				p.dst = netip.MustParseAddr(address)
				a.want(b, p, want)
			}
		}
		dns := udp(53) // the gateway serves no DNS
		dns.dst = netip.MustParseAddr("10.0.1.1")
		a.want(b, dns, NoMapping)
		before := f.drops()
		frame := a.build(tcp(80).to(b.addr))
		copy(frame[12:], []byte{0x86, 0xdd}) // IPv6
		if got := a.send(b, frame, []byte("never")); got.reason != Protocol {
			t.Errorf("IPv6: %v", got)
		}
		if f.drops()[Protocol] == before[Protocol] {
			t.Error("not counted")
		}
	})
}

func (p packetSpec) to(dst netip.Addr) packetSpec {
	p.dst = dst
	return p
}

// TestBulkTCP moves data between real stacks on two hosts, with large sends where the leg has them, and sees no packet cut.
func TestBulkTCP(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		a, b := v.stack(0, "10.0.1.10", 1), v.stack(1, "10.0.1.20", 1)
		b.echo(7)
		f.apply(v)
		conn := a.mustDial("tcp4", "10.0.1.20:7")
		exchange(t, conn, 4<<20)
		for _, base := range f.bases {
			if cut := snmp(t, base, "Ip", "FragCreates"); cut != 0 {
				t.Errorf("%d fragments on the underlay", cut)
			}
		}
		c, err := f.hosts[0].Counters(a.in.ID)
		check(t, err)
		if mean := int(c.FromGuestBytes / c.FromGuestPackets); f.leg.vnet && mean <= f.hosts[0].MTU() {
			t.Errorf("%d bytes a packet, acknowledgements included: large sends did not cross whole", mean)
		}
	})
}
