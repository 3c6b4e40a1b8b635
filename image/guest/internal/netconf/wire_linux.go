package netconf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

const (
	serverPort = 67
	clientPort = 68
	ipv4Bytes  = 20
	udpBytes   = 8
)

// wire is a packet socket on one interface: a client without an address cannot use an ordinary one.
type wire struct {
	fd    int
	index int
	mac   net.HardwareAddr
}

func openWire(index int, mac net.HardwareAddr) (*wire, error) {
	// SOCK_DGRAM: the kernel adds and removes the Ethernet header.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind packet socket to interface %d: %w", index, err)
	}
	return &wire{fd: fd, index: index, mac: mac}, nil
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

func (w *wire) close() { unix.Close(w.fd) }

// send broadcasts a message, or sends it from src to dst by way of the broadcast address of the link, which every
// neighbour takes and no ARP is needed for.
func (w *wire) send(m *dhcpv4.DHCPv4, src, dst netip.Addr) error {
	packet := wrap(m.ToBytes(), src, dst)
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: w.index, Halen: 6,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	if err := unix.Sendto(w.fd, packet, 0, to); err != nil {
		return fmt.Errorf("send DHCP %s: %w", m.MessageType(), err)
	}
	return nil
}

// wrap puts a message into UDP and IPv4.
func wrap(message []byte, src, dst netip.Addr) []byte {
	be := binary.BigEndian
	p := make([]byte, ipv4Bytes+udpBytes, ipv4Bytes+udpBytes+len(message))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	be.PutUint16(p[2:], uint16(cap(p)))
	s, d := src.As4(), dst.As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	be.PutUint16(p[10:], fold(sum(p[:ipv4Bytes], 0)))
	u := p[ipv4Bytes:]
	be.PutUint16(u[0:], clientPort)
	be.PutUint16(u[2:], serverPort)
	be.PutUint16(u[4:], uint16(udpBytes+len(message)))
	p = append(p, message...)
	u = p[ipv4Bytes:]
	pseudo := sum(p[12:20], uint32(unix.IPPROTO_UDP+len(u)))
	check := fold(sum(u, pseudo))
	if check == 0 {
		check = 0xffff
	}
	be.PutUint16(u[6:], check)
	return p
}

func sum(data []byte, start uint32) uint32 {
	for ; len(data) > 1; data = data[2:] {
		start += uint32(data[0])<<8 | uint32(data[1])
	}
	if len(data) == 1 {
		start += uint32(data[0]) << 8
	}
	return start
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// unwrap returns the DHCP message of an IPv4 packet to the client port, or nil. The UDP checksum is not looked at: on a
// paravirtual link it is rightly left unfinished.
func unwrap(packet []byte) *dhcpv4.DHCPv4 {
	if len(packet) < ipv4Bytes || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_UDP {
		return nil
	}
	header := int(packet[0]&15) * 4
	if header < ipv4Bytes || len(packet) < header+udpBytes || binary.BigEndian.Uint16(packet[header+2:]) != clientPort {
		return nil
	}
	length := int(binary.BigEndian.Uint16(packet[header+4:]))
	if length < udpBytes || header+length > len(packet) {
		return nil
	}
	m, err := dhcpv4.FromBytes(packet[header+udpBytes : header+length])
	if err != nil {
		return nil
	}
	return m
}

// receive waits until the deadline for a message that accept takes.
func (w *wire) receive(ctx context.Context, deadline time.Time, accept func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	buf := make([]byte, 64<<10)
	for {
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return nil, errors.Join(errNoAnswer, ctx.Err())
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return nil, err
		}
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive DHCP: %w", err)
		}
		if m := unwrap(buf[:n]); m != nil && accept(m) {
			return m, nil
		}
	}
}

var errNoAnswer = errors.New("no DHCP server answered")
