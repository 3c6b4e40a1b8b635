package datapath

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/nimbrel/nimbrel/host"
)

var legs = []leg{{AttachAuto, true}, {AttachAuto, false}, {AttachClsact, true}, {AttachClsact, false}}

// onLegs runs a case on every way to attach programs and both forms of tap.
func onLegs(t *testing.T, run func(t *testing.T, f *fabric)) {
	for _, l := range legs {
		t.Run(l.String(), func(t *testing.T) { run(t, newFabric(t, l)) })
	}
}

func tcp(port uint16) packetSpec {
	return packetSpec{proto: layers.IPProtocolTCP, sport: 40000, dport: port, syn: true}
}

func udp(port uint16) packetSpec {
	return packetSpec{proto: layers.IPProtocolUDP, sport: 40000, dport: port}
}

func ping(id uint16) packetSpec {
	return packetSpec{proto: layers.IPProtocolICMPv4, icmp: layers.CreateICMPv4TypeCode(8, 0), id: id}
}

func pong(id uint16) packetSpec {
	return packetSpec{proto: layers.IPProtocolICMPv4, icmp: layers.CreateICMPv4TypeCode(0, 0), id: id}
}

func allow(protocol uint8, from, to uint16, block string) host.Rule {
	return host.Rule{Protocol: protocol, FromPort: from, ToPort: to, CIDR: block}
}

func allowGroup(protocol uint8, from, to uint16, group int) host.Rule {
	return host.Rule{Protocol: protocol, FromPort: from, ToPort: to, Group: groupID(group)}
}

// reply answers a packet.
func reply(p packetSpec) packetSpec {
	p.sport, p.dport = p.dport, p.sport
	p.ack = p.proto == layers.IPProtocolTCP
	return p
}

// TestPolicy is what security groups let pass, between hosts and on one.
func TestPolicy(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, allow(6, 22, 22, "10.0.1.0/24"), allowGroup(6, 8000, 8010, 2), allow(1, 8, host.PortAny, "0.0.0.0/0"), allow(17, 5300, 5300, "0.0.0.0/0"))
		v.group(2)
		v.group(3, host.Rule{Any: true, Group: groupID(3)})
		v.group(4)
		v.groups[4].Egress = []host.Rule{allow(6, 443, 443, "0.0.0.0/0"), allowGroup(6, 22, 22, 1)}
		server := v.guest(0, "10.0.1.10", 1)
		for name, on := range map[string]int{"same host": 0, "other host": 1} {
			t.Run(name, func(t *testing.T) {
				base := byte(20 + 20*on)
				at := func(n byte) string { return netip.AddrFrom4([4]byte{10, 0, 1, base + n}).String() }
				member, far := v.guest(on, at(0), 2), v.guest(on, netip.AddrFrom4([4]byte{10, 0, 2, base}).String(), 4)
				self, peer := v.guest(on, at(1), 3), v.guest(0, at(2), 3)
				bare := v.guest(on, at(3), 4)
				f.apply(v)

				member.want(server, tcp(22), passed)
				server.want(member, reply(tcp(22)), passed)
				far.want(server, tcp(23), DeniedEgress)
				far.want(server, tcp(22), DeniedIngress) // egress allows by group, ingress does not by block
				bare.want(server, tcp(22), passed)       // both do
				member.want(server, tcp(23), DeniedIngress)
				member.want(server, tcp(8005), passed) // by group
				self.want(server, tcp(8005), DeniedIngress)
				member.want(server, tcp(8011), DeniedIngress)
				member.want(server, udp(5300), passed)
				server.want(member, reply(udp(5300)), passed)
				member.want(server, udp(5301), DeniedIngress)
				member.want(server, ping(uint16(7+on)), passed)
				server.want(member, pong(uint16(7+on)), passed)
				server.want(member, ping(9), DeniedIngress) // a new flow the other way
				server.want(member, tcp(22), DeniedIngress)
				self.want(peer, tcp(9999), passed) // self reference
				peer.want(self, udp(9999), passed)
				self.want(member, tcp(22), DeniedIngress)
				far.want(self, tcp(443), DeniedIngress)
			})
		}
	})
}

func TestSpoofedSourcesAreDropped(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, host.Rule{Any: true, CIDR: "0.0.0.0/0"})
		a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
		router := v.describe(0, "10.0.1.30", 1)
		router.SourceDestCheck = false
		r := v.open(0, router)
		v.group(2, allowGroup(6, 1, 1, 1))
		near, far := v.guest(0, "10.0.1.40", 2), v.guest(1, "10.0.1.50", 2)
		f.apply(v)
		a.want(b, tcp(1), passed)

		foreign := tcp(1)
		foreign.src = netip.MustParseAddr("10.0.1.99")
		a.want(b, foreign, SpoofIP)
		victim := tcp(1)
		victim.src = b.addr
		a.want(b, victim, SpoofIP)
		mac := tcp(1)
		mac.srcMAC = net.HardwareAddr{0x0e, 1, 2, 3, 4, 5}
		a.want(b, mac, SpoofMAC)
		for sender, want := range map[string]Reason{"10.0.1.11": SpoofARP} {
			frame := a.arp(netip.MustParseAddr(sender), b.addr)
			if got := a.send(b, frame, []byte("never")); got.reason != want {
				t.Errorf("ARP from %s: %v", sender, got)
			}
		}
		// A guest that forwards may use any source but those that are nobody's.
		outside := tcp(1)
		outside.src = netip.MustParseAddr("8.8.8.8")
		r.want(b, outside, passed)
		// What it forwards is nobody's: rules by group do not admit it, beside it or elsewhere.
		for _, member := range []*guest{near, far} {
			outside.sport++
			r.want(member, outside, DeniedIngress)
			r.want(member, tcp(1), passed)
		}
		outside.src = netip.MustParseAddr("127.0.0.1")
		r.want(b, outside, SpoofIP)
		outside.src = AddrMetadata
		r.want(b, outside, SpoofIP)
		// Nor may it pose as an address that another interface has: one elsewhere, one beside it whose host is the same,
		// and the receiver's own; to a receiver elsewhere and beside it.
		for _, of := range []*guest{a, b, near, far} {
			for _, to := range []*guest{b, near} {
				outside.src, outside.sport = of.addr, outside.sport+1
				r.want(to, outside, SpoofIP)
			}
		}
	})
}

// TestSourceCheckIsSwitched: what a guest forwards passes only while its owner has the check off; switching it on drops
// the next packet, also of a flow that passed, and spares the guest's own.
func TestSourceCheckIsSwitched(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		r, near, far := v.guest(0, "10.0.1.30", 1), v.guest(0, "10.0.1.40", 1), v.guest(1, "10.0.1.50", 1)
		f.apply(v)
		outside := udp(53)
		for n, check := range []bool{true, false, true, false} {
			f.state[0].Ports[0].Interface.SourceDestCheck = check
			f.apply(v)
			outside.src = netip.AddrFrom4([4]byte{8, 8, 8, 8})
			want := passed
			if check {
				want = SpoofIP
			}
			for _, to := range []*guest{near, far} {
				r.want(to, outside, want) // the same flow each time
				r.want(to, tcp(uint16(1+n)), passed)
				other := outside
				other.src, other.sport = netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), uint16(1000+n)
				r.want(to, other, want) // and a new one
				other.src = near.addr
				r.want(to, other, SpoofIP) // never in another interface's name
			}
		}
	})
}

// arp asks for target as sender.
func (g *guest) arp(sender, target netip.Addr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, g.in.MAC[:]...)
	frame = append(frame, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, g.in.MAC[:]...), sender.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), target.AsSlice()...)
}

var openToAll = host.Rule{Any: true, CIDR: "0.0.0.0/0"}

// TestARP: every address but the guest's own is answered with the gateway's MAC, and the agent can ask the guest.
func TestARP(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		g := v.guest(0, "10.0.1.10")
		f.apply(v)
		for _, target := range []string{"10.0.1.1", "10.0.1.99", "169.254.169.254"} {
			g.write(g.arp(g.addr, netip.MustParseAddr(target)))
			frame := <-g.frames
			want := append(append([]byte{0, 2}, GatewayMAC...), netip.MustParseAddr(target).AsSlice()...)
			want = append(append(want, g.in.MAC[:]...), g.addr.AsSlice()...)
			if !bytes.Equal(frame[:6], g.in.MAC[:]) || !bytes.Equal(frame[20:42], want) {
				t.Errorf("ARP answer % x, want % x", frame[20:42], want)
			}
		}
		g.write(g.arp(netip.IPv4Unspecified(), g.addr)) // is my address used?
		check(t, f.hosts[0].ProbeGuests())
		frame := <-g.frames // nothing came before it
		if !bytes.Equal(frame[12:22], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}) || !bytes.Equal(frame[38:42], g.addr.AsSlice()) || !bytes.Equal(frame[28:32], []byte{10, 0, 1, 1}) {
			t.Errorf("probe % x", frame)
		}
		check(t, f.hosts[0].programs.LastSeen.Put(f.hosts[0].portOf(g.in.ID).slot, seenRecord{}))
		answer := g.arp(g.addr, netip.MustParseAddr("10.0.1.1"))
		answer[21] = 2
		g.write(answer)
		if seen, err := f.hosts[0].LastSeen(g.in.ID); err != nil || seen.ARP.IsZero() {
			t.Errorf("the guest's answer was not noted: %+v, %v", seen, err)
		}
	})
}
