package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that must happen. No test passes by it running out.
const patience = 20 * time.Second

// vnetBytes is the length of a tap's virtio-net header.
const vnetBytes = 10

// leg is one way to run the suite.
type leg struct {
	attach AttachMode
	vnet   bool // guests use the virtio-net header and leave checksums to the kernel
}

func (l leg) String() string {
	return fmt.Sprintf("%s,vnet=%t", map[AttachMode]string{AttachAuto: "auto", AttachTCX: "tcx", AttachClsact: "clsact"}[l.attach], l.vnet)
}

// fabric is two hosts on one underlay.
type fabric struct {
	t     testing.TB
	leg   leg
	hosts [2]*testHost
	state [2]State // of each host
	next  int      // interface number
	bases []*namespace
}

type testHost struct {
	options Options
	*Datapath
}

// needRoot skips where the kernel refuses what the data path is made of.
func needRoot(t testing.TB) {
	t.Helper()
	if err := onOwnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs taps: %v", err)
	}
	probe, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_NO_PREALLOC})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("needs BPF: %v", err)
	}
	check(t, err)
	probe.Close()
}

var fabrics atomic.Int32

const underlayMTU = 1600

func newFabric(t testing.TB, l leg) *fabric {
	t.Helper()
	needRoot(t)
	f := &fabric{t: t, leg: l}
	name := fmt.Sprintf("/run/netns/nbxt-%d-%d", os.Getpid(), fabrics.Add(1))
	for i := range f.hosts {
		base, err := ensureNamespace(fmt.Sprintf("%s-u%d", name, i))
		if err != nil {
			t.Fatal(err)
		}
		f.bases = append(f.bases, base)
		t.Cleanup(func() { base.close(); check(t, removeNamespace(base.path)) })
	}
	check(t, f.bases[0].links.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "under", MTU: underlayMTU}, PeerName: "under", PeerNamespace: netlink.NsFd(f.bases[1].handle), PeerMTU: underlayMTU,
	}))
	for i := range f.hosts {
		device, err := f.bases[i].links.LinkByName("under")
		check(t, err)
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, byte(i+1)).To4(), Mask: net.CIDRMask(24, 32)}}
		check(t, errors.Join(f.bases[i].links.AddrAdd(device, address), f.bases[i].links.LinkSetUp(device)))
		f.hosts[i] = &testHost{options: Options{
			Underlay: f.bases[i].path, UnderlayDevice: "under", UnderlayAddress: netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}),
			Dataplane: fmt.Sprintf("%s-d%d", name, i), Service: fmt.Sprintf("%s-s%d", name, i),
			PinDir: filepath.Join(t.TempDir(), "bpf"), Attach: l.attach,
		}}
		t.Cleanup(func() {
			if f.hosts[i].Datapath != nil {
				check(t, f.hosts[i].Close())
			}
			check(t, Destroy(f.hosts[i].options))
		})
		f.open(i)
	}
	return f
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fabric) open(i int) {
	f.t.Helper()
	d, err := Open(context.Background(), f.hosts[i].options)
	check(f.t, err)
	f.hosts[i].Datapath = d
}

func hostID(i int) ids.Host { return ids.Host(fmt.Sprintf("h-%017x", i+1)) }

func groupID(n int) ids.SecurityGroup { return ids.SecurityGroup(fmt.Sprintf("sg-%017x", n)) }

// vpc is a VPC on all hosts of the fabric.
type vpc struct {
	*fabric
	vni    uint32
	cidr   string
	groups map[int]*host.Group
	sets   map[string]uint16 // identities by groups
	lists  []host.Identity
	maps   []host.Mapping
}

func (f *fabric) vpc(vni uint32) *vpc {
	return &vpc{fabric: f, vni: vni, cidr: "10.0.0.0/16", groups: map[int]*host.Group{}, sets: map[string]uint16{}}
}

// group sets a group's ingress rules; its egress allows all, as EC2's do at first.
func (v *vpc) group(n int, ingress ...host.Rule) {
	v.groups[n] = &host.Group{ID: groupID(n), Ingress: ingress, Egress: []host.Rule{{Any: true, CIDR: "0.0.0.0/0"}}}
}

func (v *vpc) state() VPCState {
	s := VPCState{VNI: v.vni, Mappings: v.maps, Identities: v.lists}
	for _, g := range v.groups {
		s.Groups = append(s.Groups, *g)
	}
	return s
}

// guest is a guest's end of a tap, driven frame by frame.
type guest struct {
	vpc    *vpc
	host   int
	in     host.Interface
	addr   netip.Addr
	tap    *os.File
	frames chan []byte // what the guest receives, without the virtio-net header
}

func (v *vpc) identity(groups []ids.SecurityGroup) uint16 {
	name := fmt.Sprint(groups)
	if v.sets[name] == 0 {
		v.sets[name] = uint16(len(v.sets) + 1)
		v.lists = append(v.lists, host.Identity{Number: v.sets[name], Groups: groups})
	}
	return v.sets[name]
}

// describe makes an interface and its mapping, without a tap.
func (v *vpc) describe(on int, address string, groups ...int) host.Interface {
	v.next++
	addr := netip.MustParseAddr(address)
	bytes := addr.As4()
	subnet := netip.PrefixFrom(addr, 24).Masked().String()
	var set []ids.SecurityGroup
	for _, g := range groups {
		set = append(set, groupID(g))
	}
	in := host.Interface{
		ID: ids.Interface(fmt.Sprintf("eni-%017x", v.next)), Instance: ids.Instance(fmt.Sprintf("i-%017x", v.next)),
		VNI: v.vni, MAC: [6]byte{0x0e, 0, 0, byte(v.vni), byte(v.next >> 8), byte(v.next)},
		SubnetCIDR: subnet, AddressOffset: uint64(bytes[3]), VPCCIDRs: []string{v.cidr},
		Identity: v.identity(set), Groups: set, SourceDestCheck: true,
	}
	v.maps = append(v.maps, host.Mapping{
		Interface: in.ID, SubnetCIDR: subnet, AddressOffset: uint64(bytes[3]), MAC: in.MAC, Host: hostID(on), Identity: in.Identity,
	})
	return in
}

// guest opens a tap for a new interface.
func (v *vpc) guest(on int, address string, groups ...int) *guest {
	v.t.Helper()
	return v.open(on, v.describe(on, address, groups...))
}

func (v *vpc) open(on int, in host.Interface) *guest {
	v.t.Helper()
	addr, err := in.Address()
	check(v.t, err)
	g := &guest{vpc: v, host: on, in: in, addr: addr, frames: make(chan []byte, 4096)}
	g.tap, err = v.hosts[on].OpenTap(context.Background(), in, v.leg.vnet)
	check(v.t, err)
	v.t.Cleanup(func() { g.tap.Close() })
	if v.leg.vnet {
		check(v.t, setOffload(g.tap))
	}
	v.fabric.state[on].Ports = append(v.fabric.state[on].Ports, Port{Interface: in, HopLimit: 1})
	go g.receive()
	return g
}

// setOffload is what QEMU does for a guest that takes partial checksums and large sends.
func setOffload(tap *os.File) error {
	raw, err := tap.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Control(func(fd uintptr) {
		result = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	})
	return errors.Join(err, result)
}

func (g *guest) receive() {
	buffer := make([]byte, 70000)
	for {
		n, err := g.tap.Read(buffer)
		if err != nil {
			close(g.frames)
			return
		}
		frame := bytes.Clone(buffer[:n])
		if g.vpc.leg.vnet {
			frame = settleChecksum(frame)
		}
		g.keep(frame)
	}
}

// keep queues a frame. When nobody reads, the oldest are of no interest any more.
func (g *guest) keep(frame []byte) {
	for {
		select {
		case g.frames <- frame:
			return
		default:
		}
		select {
		case <-g.frames:
		default:
		}
	}
}

// settleChecksum takes the virtio-net header off and does what it asks for.
func settleChecksum(frame []byte) []byte {
	header, frame := frame[:vnetBytes], frame[vnetBytes:]
	if header[0]&1 != 0 { // NEEDS_CSUM
		start, offset := int(binary.LittleEndian.Uint16(header[6:])), int(binary.LittleEndian.Uint16(header[8:]))
		sum := onesComplement(frame[start:])
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(frame[start+offset:], sum)
	}
	return frame
}

func onesComplement(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// write sends a frame as the guest would.
func (g *guest) write(frame []byte) {
	g.vpc.t.Helper()
	if g.vpc.leg.vnet {
		frame = append(make([]byte, vnetBytes), frame...)
	}
	if _, err := g.tap.Write(frame); err != nil {
		g.vpc.t.Fatalf("write frame: %v", err)
	}
}

// apply gives both hosts the whole state.
func (f *fabric) apply(vpcs ...*vpc) {
	f.t.Helper()
	for i := range f.hosts {
		check(f.t, f.hosts[i].Apply(context.Background(), f.desired(i, vpcs...)))
	}
}

func (f *fabric) desired(i int, vpcs ...*vpc) State {
	s := State{Ports: f.state[i].Ports, Orphans: f.state[i].Orphans}
	for _, v := range vpcs {
		s.VPCs = append(s.VPCs, v.state())
	}
	for n := range f.hosts {
		s.Hosts = append(s.Hosts, host.FleetHost{ID: hostID(n), Underlay: f.hosts[n].options.UnderlayAddress.String()})
	}
	return s
}

// packetSpec is a packet to build; zero fields get the guest's true ones.
type packetSpec struct {
	proto    layers.IPProtocol
	srcMAC   net.HardwareAddr
	src, dst netip.Addr
	sport    uint16
	dport    uint16
	syn, ack bool
	rst, fin bool
	icmp     layers.ICMPv4TypeCode
	id       uint16
	df       bool
	payload  []byte
}

// build makes a frame with correct checksums.
func (g *guest) build(p packetSpec) []byte {
	if p.srcMAC == nil {
		p.srcMAC = g.in.MAC[:]
	}
	if !p.src.IsValid() {
		p.src = g.addr
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: p.proto, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice(), Id: p.id}
	if p.df {
		ip.Flags = layers.IPv4DontFragment
	}
	parts := []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: p.srcMAC, DstMAC: GatewayMAC, EthernetType: layers.EthernetTypeIPv4}, ip,
	}
	switch p.proto {
	case layers.IPProtocolTCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(p.sport), DstPort: layers.TCPPort(p.dport), SYN: p.syn, ACK: p.ack, RST: p.rst, FIN: p.fin, Window: 1000, Seq: 1}
		_ = tcp.SetNetworkLayerForChecksum(ip)
		parts = append(parts, tcp)
	case layers.IPProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.sport), DstPort: layers.UDPPort(p.dport)}
		_ = udp.SetNetworkLayerForChecksum(ip)
		parts = append(parts, udp)
	case layers.IPProtocolICMPv4:
		parts = append(parts, &layers.ICMPv4{TypeCode: p.icmp, Id: p.id, Seq: 1})
	}
	out := gopacket.NewSerializeBuffer()
	parts = append(parts, gopacket.Payload(p.payload))
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		g.vpc.t.Fatal(err)
	}
	return out.Bytes()
}

var tags atomic.Uint64

// tag is a payload like no other.
func tag() []byte {
	return binary.BigEndian.AppendUint64([]byte("nimbrel-tag-"), tags.Add(1))
}

// drops sums the drop counters of all ports of both hosts by reason.
func (f *fabric) drops() (sum [reasons]uint64) {
	f.t.Helper()
	for _, h := range f.hosts {
		h.mutex.Lock()
		slots := []uint32{0}
		for _, open := range h.ports {
			slots = append(slots, open.slot)
		}
		h.mutex.Unlock()
		for _, slot := range slots {
			c, err := h.readCounters(slot)
			check(f.t, err)
			for r := range c.Drops {
				sum[r] += c.Drops[r]
			}
		}
	}
	return sum
}

// outcome of a packet: the frame that came out, or the reason that dropped it.
type outcome struct {
	frame  []byte
	reason Reason
}

// passed as an outcome's reason: nothing dropped it.
const passed = Reason(255)

func (o outcome) String() string {
	if o.reason == passed {
		return "passed"
	}
	return "dropped: " + o.reason.String()
}

// send puts a frame with a unique payload in at from and waits until it comes out at to, or is dropped and counted.
func (g *guest) send(to *guest, frame []byte, mark []byte) outcome {
	g.vpc.t.Helper()
	before := g.vpc.drops()
	g.write(frame)
	deadline := time.After(patience)
	poll := time.NewTicker(200 * time.Microsecond)
	defer poll.Stop()
	for {
		select {
		case got := <-to.frames:
			if bytes.Contains(got, mark) {
				return outcome{got, passed}
			}
		case <-poll.C:
			after := g.vpc.drops()
			for r := range after {
				if after[r] != before[r] {
					return outcome{nil, Reason(r)}
				}
			}
		case <-deadline:
			g.vpc.t.Fatal("the packet neither came out nor was counted as dropped")
		}
	}
}

// try sends one packet of a kind to a guest.
func (g *guest) try(to *guest, p packetSpec) outcome {
	g.vpc.t.Helper()
	if !p.dst.IsValid() {
		p.dst = to.addr
	}
	mark := tag()
	p.payload = append(p.payload, mark...)
	got := g.send(to, g.build(p), mark)
	if got.reason == passed {
		verify(g.vpc.t, got.frame)
	}
	return got
}

func (g *guest) want(to *guest, p packetSpec, reason Reason) {
	g.vpc.t.Helper()
	if got := g.try(to, p); got.reason != reason {
		g.vpc.t.Errorf("%v to %v %s: %v, want %v", g.addr, to.addr, p.proto, got, outcome{nil, reason})
	}
}

// verify checks a received frame's checksums as a guest without offloads does.
func verify(t testing.TB, frame []byte) {
	t.Helper()
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip, ok := packet.NetworkLayer().(*layers.IPv4)
	if !ok {
		return
	}
	if onesComplement(ip.Contents) != 0 {
		t.Errorf("received frame: IP checksum is wrong")
	}
	if ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0 {
		return
	}
	pseudo := append(append([]byte{}, ip.SrcIP...), ip.DstIP...)
	pseudo = append(pseudo, 0, byte(ip.Protocol))
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(ip.Payload)))
	switch ip.Protocol {
	case layers.IPProtocolICMPv4:
		pseudo = nil
	case layers.IPProtocolUDP:
		if binary.BigEndian.Uint16(ip.Payload[6:]) == 0 {
			return
		}
	case layers.IPProtocolTCP:
	default:
		return
	}
	if onesComplement(append(pseudo, ip.Payload...)) != 0 {
		t.Errorf("received frame: %s checksum is wrong", ip.Protocol)
	}
}
