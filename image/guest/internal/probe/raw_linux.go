package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	maxForged = 100_000
	// forgedPort is the source port of forged datagrams.
	forgedPort = 40000
)

func addr4(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || !ip.Is4() {
		return netip.Addr{}, usagef("%q is not an IPv4 address", text)
	}
	return ip, nil
}

// ping sends echo requests one after the other; the timeout is for all of them together. It fails unless every one was
// answered. With df a packet beyond the path's MTU fails with reason "mtu" and the MTU, if the network says it.
func (r *Runner) ping(ctx context.Context, cmd Command) (Values, error) {
	dst, err := addr4(cmd.Args[0])
	if err != nil {
		return nil, err
	}
	words := cmd.Args[1:]
	df := cmd.Options["df"] != "" && cmd.Options["df"] != "0"
	if i := slices.Index(words, "df"); i >= 0 {
		df, words = true, slices.Delete(slices.Clone(words), i, i+1)
	}
	size, err := cmd.option("size", 56, 0, maxDatagram)
	if err == nil && len(words) > 0 {
		size, err = number("size", words[0], 0, maxDatagram)
	}
	count, countErr := cmd.option("count", 1, 1, maxForged)
	if err = errors.Join(err, countErr); err != nil {
		return nil, err
	}
	p, err := openPinger(dst, df)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return p.run(ctx, size, count)
}

type pinger struct {
	fd int
	id uint16
}

func openPinger(dst netip.Addr, df bool) (*pinger, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	p := &pinger{fd: fd, id: uint16(rand.Uint32())}
	discover := unix.IP_PMTUDISC_DONT
	if df {
		discover = unix.IP_PMTUDISC_DO
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: dst.As4()}))
	if err != nil {
		p.close()
		return nil, fmt.Errorf("set up raw socket to %s: %w", dst, err)
	}
	return p, nil
}

func (p *pinger) close() { unix.Close(p.fd) }

func (p *pinger) run(ctx context.Context, size, count int) (Values, error) {
	data := make([]byte, size)
	received, lowest, total := 0, time.Duration(0), time.Duration(0)
	var last error
	for seq := range count {
		rtt, err := p.once(ctx, uint16(seq), data)
		if err != nil {
			last = err
			if ctx.Err() != nil || !errors.Is(err, unix.EAGAIN) {
				break
			}
			continue
		}
		if received == 0 || rtt < lowest {
			lowest = rtt
		}
		received, total = received+1, total+rtt
	}
	values := Values{"sent": count, "received": received, "bytes": size}
	if received > 0 {
		values["minMs"], values["avgMs"] = millis(lowest), millis(total/time.Duration(received))
	}
	if errors.Is(last, unix.EMSGSIZE) {
		if mtu, err := unix.GetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_MTU); err == nil {
			values["mtu"] = mtu
		}
	}
	return values, last
}

// once sends one request and waits for its reply until ctx's deadline.
func (p *pinger) once(ctx context.Context, seq uint16, data []byte) (time.Duration, error) {
	start := time.Now()
	if _, err := unix.Write(p.fd, icmpEcho(p.id, seq, data)); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for {
		if err := setReadTimeout(ctx, p.fd); err != nil {
			return 0, err
		}
		n, err := unix.Read(p.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if p.answers(buf[:n], seq) {
			return time.Since(start), nil
		}
	}
}

// answers says whether an IPv4 packet is the echo reply to one of ours.
func (p *pinger) answers(packet []byte, seq uint16) bool {
	if len(packet) < ipv4Bytes {
		return false
	}
	header := int(packet[0]&15) * 4
	if len(packet) < header+8 {
		return false
	}
	m := packet[header:]
	return m[0] == 0 && binary.BigEndian.Uint16(m[4:]) == p.id && binary.BigEndian.Uint16(m[6:]) == seq
}

// setReadTimeout bounds a blocking read by ctx's deadline.
func setReadTimeout(ctx context.Context, fd int) error {
	left := DefaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		if left = time.Until(deadline); left <= 0 {
			return context.DeadlineExceeded
		}
	}
	tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

// spoofIP sends packets whose source address is not ours. That they left says nothing: the receiver's counters do.
func (r *Runner) spoofIP(_ context.Context, cmd Command) (Values, error) {
	src, srcErr := addr4(cmd.Args[0])
	dst, dstErr := addr4(cmd.Args[1])
	port, portErr := cmd.option("dstPort", 7, 1, 65535)
	count, countErr := cmd.option("count", 1, 1, maxForged)
	if err := errors.Join(srcErr, dstErr, portErr, countErr); err != nil {
		return nil, err
	}
	packet := ipv4(src, dst, protoUDP, udpDatagram(src, dst, forgedPort, uint16(port), []byte("forged source")))
	switch cmd.Options["proto"] {
	case "", "udp":
	case "icmp":
		packet = ipv4(src, dst, protoICMP, icmpEcho(1, 1, []byte("forged source")))
	default:
		return nil, usagef("proto=%s is neither udp nor icmp", cmd.Options["proto"])
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	defer unix.Close(fd)
	for range count {
		if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: dst.As4()}); err != nil {
			return nil, err
		}
	}
	return Values{"sent": count, "bytes": len(packet)}, nil
}

// spoofMAC sends datagrams with our own address but another source MAC.
func (r *Runner) spoofMAC(_ context.Context, cmd Command) (Values, error) {
	mac, err := net.ParseMAC(cmd.Args[0])
	if err != nil || len(mac) != 6 {
		return nil, usagef("%q is not a MAC address", cmd.Args[0])
	}
	dst, dstErr := addr4(cmd.Args[1])
	count, countErr := cmd.option("count", 1, 1, maxForged)
	if err := errors.Join(dstErr, countErr); err != nil {
		return nil, err
	}
	hop, err := nextHop(dst, cmd.Options["dev"])
	if err != nil {
		return nil, err
	}
	payload := ipv4(hop.src, dst, protoUDP, udpDatagram(hop.src, dst, forgedPort, 7, []byte("forged mac")))
	return sendFrames(hop.link, ethernet(hop.mac, mac, etherIPv4, payload), count)
}

// arpSpoof claims an address that is not ours, to the whole subnet.
func (r *Runner) arpSpoof(_ context.Context, cmd Command) (Values, error) {
	ip, ipErr := addr4(cmd.Args[0])
	count, countErr := cmd.option("count", 1, 1, maxForged)
	if err := errors.Join(ipErr, countErr); err != nil {
		return nil, err
	}
	link, err := device(cmd.Options["dev"])
	if err != nil {
		return nil, err
	}
	return sendFrames(link, arpClaim(link.Attrs().HardwareAddr, ip), count)
}

// rawVXLAN sends VXLAN packets with a forged inner frame to an address of the underlay, which a guest must not reach.
func (r *Runner) rawVXLAN(ctx context.Context, cmd Command) (Values, error) {
	outer, outerErr := addr4(cmd.Args[0])
	vni, vniErr := number("VNI", cmd.Args[1], 0, 1<<24-1)
	src, srcErr := addr4(cmd.Args[2])
	dst, dstErr := addr4(cmd.Args[3])
	policy, policyErr := cmd.option("gbp", 0, 0, 65535)
	port, portErr := cmd.option("dstPort", 7, 1, 65535)
	count, countErr := cmd.option("count", 1, 1, maxForged)
	srcMAC, srcMACErr := cmd.mac("srcMac", "02:00:00:00:00:01")
	dstMAC, dstMACErr := cmd.mac("dstMac", "02:00:00:00:00:02")
	err := errors.Join(outerErr, vniErr, srcErr, dstErr, policyErr, portErr, countErr, srcMACErr, dstMACErr)
	if err != nil {
		return nil, err
	}
	inner := ethernet(dstMAC, srcMAC, etherIPv4,
		ipv4(src, dst, protoUDP, udpDatagram(src, dst, forgedPort, uint16(port), []byte("forged vxlan"))))
	conn, err := dial(ctx, "udp4", netip.AddrPortFrom(outer, vxlanPort).String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	packet := vxlan(uint32(vni), uint16(policy), inner)
	for range count {
		if _, err := conn.Write(packet); err != nil {
			return nil, err
		}
	}
	return Values{"sent": count, "bytes": len(packet)}, nil
}

func (c Command) mac(key, otherwise string) (net.HardwareAddr, error) {
	text := c.Options[key]
	if text == "" {
		text = otherwise
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil, usagef("%s=%s is not a MAC address", key, text)
	}
	return mac, nil
}

// forgeDHCP broadcasts DHCP offers and acknowledgements that nobody asked for, as a rogue server would.
func (r *Runner) forgeDHCP(_ context.Context, cmd Command) (Values, error) {
	count, err := cmd.option("count", 10, 1, maxForged)
	if err != nil {
		return nil, err
	}
	link, err := device(cmd.Options["dev"])
	if err != nil {
		return nil, err
	}
	server, offered := netip.MustParseAddr("192.0.2.1"), net.IPv4(192, 0, 2, 77)
	message, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
		dhcpv4.WithYourIP(offered),
		dhcpv4.WithServerIP(server.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(server.AsSlice()),
		dhcpv4.WithLeaseTime(600))
	if err != nil {
		return nil, err
	}
	message.OpCode = dhcpv4.OpcodeBootReply
	all := netip.MustParseAddr("255.255.255.255")
	frame := ethernet(broadcast, link.Attrs().HardwareAddr, etherIPv4,
		ipv4(server, all, protoUDP, udpDatagram(server, all, 67, 68, message.ToBytes())))
	return sendFrames(link, frame, count)
}

// sendFrames puts whole frames on a device.
func sendFrames(link netlink.Link, frame []byte, count int) (Values, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6}
	copy(to.Addr[:], frame[:6])
	for range count {
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			return nil, fmt.Errorf("send frame on %s: %w", link.Attrs().Name, err)
		}
	}
	return Values{"sent": count, "bytes": len(frame), "dev": link.Attrs().Name}, nil
}

// device is the named link, or the first Ethernet one.
func device(name string) (netlink.Link, error) {
	if name != "" {
		return netlink.LinkByName(name)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		if a := link.Attrs(); a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 {
			return link, nil
		}
	}
	return nil, errors.New("no Ethernet device")
}

// hop is how a packet to some destination leaves: device, own address, and the neighbour's MAC.
type hop struct {
	link netlink.Link
	src  netip.Addr
	mac  net.HardwareAddr
}

// nextHop asks the kernel. The neighbour must answer ARP: a datagram to the discard port makes the kernel ask.
func nextHop(dst netip.Addr, dev string) (hop, error) {
	routes, err := netlink.RouteGet(dst.AsSlice())
	if err != nil || len(routes) == 0 {
		return hop{}, fmt.Errorf("find route to %s: %w", dst, err)
	}
	route := routes[0]
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if dev != "" {
		link, err = netlink.LinkByName(dev)
	}
	if err != nil {
		return hop{}, err
	}
	src, _ := netip.AddrFromSlice(route.Src.To4())
	via := dst
	if gw, ok := netip.AddrFromSlice(route.Gw.To4()); ok {
		via = gw
	}
	if conn, err := net.Dial("udp4", netip.AddrPortFrom(via, 9).String()); err == nil {
		_, _ = conn.Write([]byte{0}) // only to make the kernel resolve the neighbour
		conn.Close()
	}
	for range 20 {
		neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
		if err != nil {
			return hop{}, err
		}
		for _, n := range neighbours {
			if n.IP.Equal(via.AsSlice()) && len(n.HardwareAddr) == 6 {
				return hop{link: link, src: src, mac: n.HardwareAddr}, nil
			}
		}
		time.Sleep(50 * time.Millisecond) // the kernel sends no event that is simpler to wait for
	}
	return hop{}, fmt.Errorf("find neighbour %s on %s: %w", via, link.Attrs().Name, unix.EHOSTUNREACH)
}
