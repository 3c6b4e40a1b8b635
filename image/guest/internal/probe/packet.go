package probe

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Header sizes and protocol numbers of what is forged here.
const (
	ethernetBytes = 14
	ipv4Bytes     = 20
	udpBytes      = 8
	vxlanBytes    = 8
	arpBytes      = 28

	etherIPv4 = 0x0800
	etherARP  = 0x0806
	protoICMP = 1
	protoUDP  = 17

	vxlanPort = 4789
)

// broadcast is the Ethernet broadcast address.
var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// checksum is the Internet checksum (RFC 1071) of data on top of a partial sum.
func checksum(data []byte, sum uint32) uint16 {
	for ; len(data) > 1; data = data[2:] {
		sum += uint32(data[0])<<8 | uint32(data[1])
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ethernet prefixes a payload with its frame header.
func ethernet(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	frame := make([]byte, 0, ethernetBytes+len(payload))
	frame = append(frame, dst...)
	frame = append(frame, src...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	return append(frame, payload...)
}

// ipv4 prefixes a payload with a header without options. The addresses may be anything: that is the point.
func ipv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	h := make([]byte, ipv4Bytes, ipv4Bytes+len(payload))
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Bytes+len(payload)))
	s, d := src.As4(), dst.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	binary.BigEndian.PutUint16(h[10:], checksum(h, 0))
	return append(h, payload...)
}

// udpDatagram prefixes data with a UDP header whose checksum is right for the given addresses.
func udpDatagram(src, dst netip.Addr, srcPort, dstPort uint16, data []byte) []byte {
	h := make([]byte, udpBytes, udpBytes+len(data))
	binary.BigEndian.PutUint16(h[0:], srcPort)
	binary.BigEndian.PutUint16(h[2:], dstPort)
	binary.BigEndian.PutUint16(h[4:], uint16(udpBytes+len(data)))
	h = append(h, data...)
	s, d := src.As4(), dst.As4()
	var sum uint32 = protoUDP + uint32(len(h))
	for _, a := range [][4]byte{s, d} {
		sum += uint32(a[0])<<8 + uint32(a[1]) + uint32(a[2])<<8 + uint32(a[3])
	}
	sumValue := checksum(h, sum)
	if sumValue == 0 { // zero would mean "none"
		sumValue = 0xffff
	}
	binary.BigEndian.PutUint16(h[6:], sumValue)
	return h
}

// icmpEcho is an echo request.
func icmpEcho(id, seq uint16, data []byte) []byte {
	m := make([]byte, 8, 8+len(data))
	m[0] = 8
	binary.BigEndian.PutUint16(m[4:], id)
	binary.BigEndian.PutUint16(m[6:], seq)
	m = append(m, data...)
	binary.BigEndian.PutUint16(m[2:], checksum(m, 0))
	return m
}

// arpClaim is an unasked ARP reply that says mac owns ip, sent to everyone.
func arpClaim(mac net.HardwareAddr, ip netip.Addr) []byte {
	p := make([]byte, 0, arpBytes)
	p = append(p, 0, 1, 8, 0, 6, 4, 0, 2) // Ethernet, IPv4, sizes, reply
	a := ip.As4()
	p = append(p, mac...)
	p = append(p, a[:]...)
	p = append(p, broadcast...)
	p = append(p, a[:]...)
	return ethernet(broadcast, mac, etherARP, p)
}

// vxlan prefixes an inner frame with a VXLAN header. A policy above 0 goes into the group-policy field with its flag.
func vxlan(vni uint32, policy uint16, inner []byte) []byte {
	h := make([]byte, vxlanBytes, vxlanBytes+len(inner))
	h[0] = 0x08
	if policy > 0 {
		h[0] |= 0x80
		binary.BigEndian.PutUint16(h[2:], policy)
	}
	binary.BigEndian.PutUint32(h[4:], vni<<8)
	return append(h, inner...)
}
