package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/nimbrel/nimbrel/host"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestVPCsAreApart runs two VPCs with the same addresses on the same hosts.
func TestVPCsAreApart(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		red, blue := f.vpc(77), f.vpc(78)
		var guests [2][2]*guest
		for i, v := range []*vpc{red, blue} {
			v.group(1, openToAll)
			guests[i] = [2]*guest{v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)}
		}
		alone := red.guest(0, "10.0.1.30", 1)
		f.apply(red, blue)
		for i, pair := range guests {
			pair[0].want(pair[1], tcp(22), passed)
			pair[1].want(pair[0], reply(tcp(22)), passed)
			for len(guests[1-i][1].frames) > 0 {
				t.Errorf("the other VPC's guest received %x", <-guests[1-i][1].frames)
			}
		}
		guests[1][0].want(alone, tcp(22), NoMapping)
		guests[1][1].want(alone, tcp(22), NoMapping)
	})
}

// forge sends a tunnel packet from an address of host 0's underlay to host 1.
func (f *fabric) forge(from string, vni uint32, inner []byte) {
	f.t.Helper()
	check(f.t, f.bases[0].do(func() error {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.IPv4(10, 99, 0, 2), Port: defaultPort})
		if err != nil {
			return err
		}
		defer conn.Close()
		header := []byte{0x88, 0, 0, 1} // group policy: identity 1
		header = binary.BigEndian.AppendUint32(header, vni<<8)
		_, err = conn.Write(append(header, inner...))
		return err
	}))
}

// waitDrop waits until the reason's count has grown.
func (f *fabric) waitDrop(before [reasons]uint64, want Reason) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		after := f.drops()
		if after[want] > before[want] {
			return
		}
		if after != before || time.Now().After(deadline) {
			f.t.Errorf("drops grew from %v to %v: want %v counted", before, after, want)
			return
		}
	}
}

func TestForgedTunnelPackets(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
		c := v.guest(1, "10.0.1.30", 1)
		under, err := f.bases[0].links.LinkByName("under")
		check(t, err)
		check(t, f.bases[0].links.AddrAdd(under, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, 66).To4(), Mask: net.CIDRMask(24, 32)}}))
		f.apply(v)
		a.want(b, tcp(22), passed)
		from := func(source string) []byte {
			p := tcp(22)
			p.src, p.dst, p.payload = netip.MustParseAddr(source), b.addr, []byte("forged")
			return a.build(p)
		}
		for _, c := range []struct {
			name, outer, inner string
			vni                uint32
			want               Reason
		}{
			{"true address, no host", "10.99.0.66", "10.0.1.10", 77, Forged},
			{"unmapped address, no host", "10.99.0.66", "8.8.8.8", 77, Forged},
			{"address of a guest elsewhere", "10.99.0.1", c.addr.String(), 77, Forged},
			{"the receiver's own address", "10.99.0.1", "10.0.1.20", 77, Forged},
			{"loopback", "10.99.0.1", "127.0.0.1", 77, Forged},
			{"metadata", "10.99.0.1", "169.254.169.254", 77, Forged},
			{"another VPC", "10.99.0.1", "10.0.1.10", 78, NoMapping},
		} {
			before := f.drops()
			f.forge(c.outer, c.vni, from(c.inner))
			f.waitDrop(before, c.want)
			if t.Failed() {
				t.Fatalf("%s", c.name)
			}
		}
		for len(b.frames) > 0 {
			if frame := <-b.frames; bytes.Contains(frame, []byte("forged")) {
				t.Errorf("a forged packet arrived: %x", frame)
			}
		}
	})
}

// capture reads frames of the underlay until one holds the mark.
func (f *fabric) capture(send func(), mark []byte) []byte {
	f.t.Helper()
	var socket *os.File
	check(f.t, f.bases[1].do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		if err == nil {
			socket = os.NewFile(uintptr(fd), "capture")
		}
		return err
	}))
	defer socket.Close()
	check(f.t, socket.SetReadDeadline(time.Now().Add(patience)))
	send()
	buffer := make([]byte, 70000)
	for {
		n, err := socket.Read(buffer)
		check(f.t, err)
		if bytes.Contains(buffer[:n], mark) {
			return buffer[:n]
		}
	}
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// TestTunnelOnTheWire reads what crosses the underlay: identity in the group policy field, VNI, don't-fragment, and
// nothing of the guest's own Ethernet destination.
func TestTunnelOnTheWire(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(0x4d4e4f)
	v.group(1, openToAll)
	v.group(2)
	a, b := v.guest(0, "10.0.1.10", 2), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	mark := tag()
	p := udp(9)
	p.dst, p.payload = b.addr, mark
	frame := f.capture(func() { a.write(a.build(p)) }, mark)
	outer := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip, udp := outer.NetworkLayer().(*layers.IPv4), outer.TransportLayer().(*layers.UDP)
	if ip.SrcIP.String() != "10.99.0.1" || ip.DstIP.String() != "10.99.0.2" || ip.Flags != layers.IPv4DontFragment || udp.DstPort != defaultPort {
		t.Errorf("outer header %v to %v port %d flags %v", ip.SrcIP, ip.DstIP, udp.DstPort, ip.Flags)
	}
	want := []byte{0x88, 0, 0, byte(a.in.Identity), 0x4d, 0x4e, 0x4f, 0}
	if got := frame[42:50]; !bytes.Equal(got, want) || a.in.Identity == 0 {
		t.Errorf("VXLAN header % x, want % x", got, want)
	}
}

// TestTunnelSocketStaysInTheUnderlay proves what moving the device relies on.
func TestTunnelSocketStaysInTheUnderlay(t *testing.T) {
	f := newFabric(t, legs[0])
	bind := func(space *namespace) error {
		return space.do(func() error {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: defaultPort})
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	if err := bind(f.bases[0]); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("UDP %d of the underlay: %v, want in use", defaultPort, err)
	}
	if err := bind(f.hosts[0].dataplane); err != nil {
		t.Errorf("UDP %d of the data path's namespace: %v, want free", defaultPort, err)
	}
	if _, err := f.bases[0].links.LinkByName(deviceVXLAN); err == nil {
		t.Error("the device is still beside the underlay")
	}
}

// fragments cuts an IPv4 frame's payload at multiples of size bytes.
func fragments(frame []byte, size int) [][]byte {
	header, payload := frame[:34], frame[34:]
	var out [][]byte
	for offset := 0; offset < len(payload); offset += size {
		end := min(offset+size, len(payload))
		piece := append(bytes.Clone(header), payload[offset:end]...)
		word := uint16(offset / 8)
		if end < len(payload) {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(piece[16:], uint16(20+end-offset))
		binary.BigEndian.PutUint16(piece[20:], word)
		binary.BigEndian.PutUint16(piece[24:], 0)
		binary.BigEndian.PutUint16(piece[24:], onesComplement(piece[14:34]))
		out = append(out, piece)
	}
	return out
}

// TestFragments sends 4,000 bytes of UDP to an allowed port and to another, to a guest beside and to one elsewhere.
func TestFragments(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, allow(17, 9, 9, "0.0.0.0/0"))
		a := v.guest(0, "10.0.1.10", 1)
		f.apply(v)
		for i, b := range []*guest{v.guest(0, "10.0.1.20", 1), v.guest(1, "10.0.1.30", 1)} {
			f.apply(v)
			datagram := func(port uint16, id int) [][]byte {
				p := udp(port)
				p.dst, p.id, p.payload = b.addr, uint16(100*i+id), bytes.Repeat([]byte("fragment"), 500)
				return fragments(a.build(p), 1480)
			}
			want := func(frame []byte, reason Reason) {
				t.Helper()
				if got := a.send(b, frame, frame[34:]); got.reason != reason {
					t.Errorf("fragment at %d to %v: %v, want %v", binary.BigEndian.Uint16(frame[20:])&0x1fff*8, b.addr, got, outcome{nil, reason})
				}
			}
			for _, piece := range datagram(9, 1) {
				want(piece, passed)
			}
			for n, piece := range datagram(10, 2) {
				want(piece, map[bool]Reason{true: DeniedIngress, false: Fragment}[n == 0])
			}
			want(datagram(9, 3)[1], Fragment) // before its first
			// Cut so short that the second could rewrite the ports of the first.
			p := udp(9)
			p.dst, p.id, p.payload = b.addr, uint16(100*i+4), bytes.Repeat([]byte("short"), 10)
			short := fragments(a.build(p), 16)
			want(short[0], passed)
			want(short[1], Fragment)
		}
	})
}

// sendLarge writes a packet as a driver with offloads does: partial checksum, and segments of gsoSize when that is not 0.
func (g *guest) sendLarge(frame []byte, gsoSize uint16) {
	header := make([]byte, vnetBytes)
	header[0] = 1 // NEEDS_CSUM
	offset := uint16(16)
	pseudo := append(append([]byte{}, frame[26:34]...), 0, frame[23])
	if frame[23] == 17 {
		offset = 6
	}
	if gsoSize > 0 {
		header[1] = 1 // TCPv4
		binary.LittleEndian.PutUint16(header[2:], 54)
		binary.LittleEndian.PutUint16(header[4:], gsoSize)
	}
	binary.LittleEndian.PutUint16(header[6:], 34)
	binary.LittleEndian.PutUint16(header[8:], offset)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(frame)-34))
	binary.BigEndian.PutUint16(frame[34+offset:], ^onesComplement(pseudo))
	if _, err := g.tap.Write(append(header, frame...)); err != nil {
		g.vpc.t.Fatal(err)
	}
}

// wantTooBig expects ICMP fragmentation needed about the packet.
func (g *guest) wantTooBig(sent []byte, limit int) {
	t := g.vpc.t
	t.Helper()
	packet, ip := g.nextPacket()
	answer, ok := packet.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || answer.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || ip.SrcIP.String() != "10.0.1.1" {
		t.Fatalf("answer %v: want fragmentation needed from the gateway", packet)
	}
	if got := int(answer.Seq); got != limit {
		t.Errorf("MTU told is %d, want %d", got, limit)
	}
	quote := answer.Payload
	if len(quote) < 28 || !bytes.Equal(quote[:24], sent[14:38]) {
		t.Errorf("quote % x of % x", quote, sent[14:42])
	}
}

// TestTooBigIsAnswered sends what does not fit the tunnel.
func TestTooBigIsAnswered(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
		f.apply(v)
		limit := f.hosts[0].MTU()
		if limit != underlayMTU-host.EncapsulationCost {
			t.Fatalf("guest MTU %d", limit)
		}
		big := func(p packetSpec, bytes int) []byte {
			p.dst, p.df, p.payload = b.addr, true, make([]byte, bytes)
			return a.build(p)
		}
		fits := tcp(9)
		fits.df, fits.payload = true, make([]byte, limit-40-len(tag()))
		a.want(b, fits, passed)
		for name, frame := range map[string][]byte{
			"tcp": big(tcp(9), limit-39), "udp": big(udp(9), limit-27), "ping": big(ping(1), limit-27), "even": big(udp(9), 1900), "odd": big(tcp(9), 1901),
		} {
			before, err := f.hosts[0].Counters(a.in.ID)
			check(t, err)
			a.write(frame)
			a.wantTooBig(frame, limit)
			after, err := f.hosts[0].Counters(a.in.ID)
			check(t, err)
			if after.Dropped(TooBig) != before.Dropped(TooBig)+1 {
				t.Errorf("%s: not counted", name)
			}
		}
		// The frame is judged, not the length that its header claims: padding passes, more does not.
		mark := tag()
		p := udp(9)
		p.dst, p.payload = b.addr, mark
		if got := a.send(b, append(a.build(p), make([]byte, 6)...), mark); got.reason != passed {
			t.Errorf("a padded frame: %v", got)
		}
		if got := a.send(b, append(a.build(p), make([]byte, limit)...), []byte("never")); got.reason != Malformed {
			t.Errorf("a short packet in a long frame: %v", got)
		}
		if f.leg.vnet {
			offloaded(t, a, b, big, limit)
		}
		for i := range f.bases {
			if cut := snmp(t, f.bases[i], "Ip", "FragCreates"); cut != 0 {
				t.Errorf("%d fragments on the underlay", cut)
			}
		}
	})
}

// offloaded repeats it with packets whose checksum is still owed, towards taps that take the debt and that do not.
func offloaded(t *testing.T, a, b *guest, big func(packetSpec, int) []byte, limit int) {
	mark := tag()
	fits := tcp(9)
	fits.dst, fits.payload = b.addr, append(make([]byte, 20000), mark...)
	a.sendLarge(a.build(fits), uint16(limit-40))
	for got := []byte(nil); !bytes.Contains(got, mark); {
		select {
		case got = <-b.frames:
		case <-time.After(patience):
			t.Fatal("a large send whose segments fit was lost")
		}
	}
	for _, flags := range []int{unix.TUN_F_CSUM | unix.TUN_F_TSO4, 0} {
		raw, err := a.tap.SyscallConn()
		check(t, err)
		check(t, raw.Control(func(fd uintptr) { err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, flags) }))
		check(t, err)
		for _, frame := range [][]byte{big(tcp(9), 2000), big(udp(9), 2001)} {
			a.sendLarge(frame, 0)
			a.wantTooBig(frame, limit)
		}
		frame := big(tcp(9), 20000)
		a.sendLarge(frame, uint16(limit-39))
		a.wantTooBig(frame, limit)
	}
}
