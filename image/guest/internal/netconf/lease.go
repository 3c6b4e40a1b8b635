// Package netconf configures the guest's network interfaces by DHCP (RFC 2131) and keeps their leases.
//
// Each Ethernet interface has a client of its own, present at boot or plugged in later. A lease sets address, MTU
// (option 26), routes (option 121, which replaces option 3 when present, as RFC 3442 demands), resolv.conf, and tells
// the time servers. It is renewed at T1 by unicast and at T2 by broadcast, and given up when it ends. Trying never ends:
// it backs off to one message in eight seconds.
//
// ParseLease is pure and takes nothing from an answer on trust: what is out of bounds is an error or is left out.
//
// Deliberately absent: IPv6, DHCPRELEASE, ARP probing of the offered address (the network answers ARP for every address,
// so a probe would always find a conflict).
package netconf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Bounds of what an answer may say.
const (
	minMTU       = 576 // every IPv4 host takes this much (RFC 791)
	maxMTU       = 9216
	maxRoutes    = 64
	maxServers   = 8
	minLeaseTime = 10 * time.Second
	maxLeaseTime = 30 * 24 * time.Hour
)

// Route is a destination and its gateway. An invalid gateway means that the destination is on the link.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Lease is what a server granted. Times count from its acknowledgement.
type Lease struct {
	Addr     netip.Prefix // own address with the subnet's length
	Server   netip.Addr
	MTU      int // 0: not given
	Routes   []Route
	DNS, NTP []netip.Addr
	Hostname string
	Domain   string

	Renew, Rebind, Expire time.Duration // T1 <= T2 <= end
}

// errNoLease says that a message grants nothing.
var errNoLease = errors.New("message grants no lease")

// ParseLease reads an offer or acknowledgement.
func ParseLease(m *dhcpv4.DHCPv4) (Lease, error) {
	addr, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return Lease{}, fmt.Errorf("%w: address %v", errNoLease, m.YourIPAddr)
	}
	mask := m.Options.Get(dhcpv4.OptionSubnetMask)
	if len(mask) != 4 {
		return Lease{}, fmt.Errorf("%w: no subnet mask", errNoLease)
	}
	ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(mask))
	if binary.BigEndian.Uint32(mask)<<ones != 0 || ones == 0 {
		return Lease{}, fmt.Errorf("%w: subnet mask %v", errNoLease, net.IP(mask))
	}
	server, ok := option4(m, dhcpv4.OptionServerIdentifier)
	if !ok {
		return Lease{}, fmt.Errorf("%w: no server identifier", errNoLease)
	}
	l := Lease{
		Addr: netip.PrefixFrom(addr, ones), Server: server, MTU: mtuOf(m), Routes: routesOf(m),
		DNS: servers(m, dhcpv4.OptionDomainNameServer), NTP: servers(m, dhcpv4.OptionNTPServers),
		Hostname: name(m, dhcpv4.OptionHostName), Domain: name(m, dhcpv4.OptionDomainName),
	}
	l.Expire = min(max(m.IPAddressLeaseTime(time.Hour), minLeaseTime), maxLeaseTime)
	l.Rebind = clamp(m.IPAddressRebindingTime(l.Expire*7/8), l.Expire*7/8, l.Expire)
	l.Renew = clamp(m.IPAddressRenewalTime(l.Expire/2), l.Expire/2, l.Rebind)
	return l, nil
}

// clamp replaces a time that makes no sense by the default.
func clamp(got, otherwise, limit time.Duration) time.Duration {
	if got <= 0 || got > limit {
		return min(otherwise, limit)
	}
	return got
}

func option4(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) (netip.Addr, bool) {
	raw := m.Options.Get(code)
	if len(raw) != 4 {
		return netip.Addr{}, false
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr, !addr.IsUnspecified()
}

func servers(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) []netip.Addr {
	raw := m.Options.Get(code)
	var list []netip.Addr
	for ; len(raw) >= 4 && len(list) < maxServers; raw = raw[4:] {
		addr, _ := netip.AddrFromSlice(raw[:4])
		list = append(list, addr)
	}
	return list
}

func mtuOf(m *dhcpv4.DHCPv4) int {
	raw := m.Options.Get(dhcpv4.OptionInterfaceMTU)
	if len(raw) != 2 {
		return 0
	}
	mtu := int(binary.BigEndian.Uint16(raw))
	if mtu < minMTU || mtu > maxMTU {
		return 0
	}
	return mtu
}

// routesOf reads option 121, or else makes default routes of option 3.
func routesOf(m *dhcpv4.DHCPv4) []Route {
	if raw := m.Options.Get(dhcpv4.OptionClasslessStaticRoute); len(raw) > 0 {
		return classless(raw)
	}
	var routes []Route
	for _, router := range servers(m, dhcpv4.OptionRouter)[:min(1, len(servers(m, dhcpv4.OptionRouter)))] {
		routes = append(routes, Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: router})
	}
	return routes
}

// classless decodes RFC 3442: a prefix length, as many bytes of the prefix as that needs, and the gateway. What follows
// the first malformed entry is left out.
func classless(raw []byte) []Route {
	var routes []Route
	for len(raw) > 0 && len(routes) < maxRoutes {
		length := int(raw[0])
		used := (length + 7) / 8
		if length > 32 || len(raw) < 1+used+4 {
			break
		}
		var prefix, via [4]byte
		copy(prefix[:], raw[1:1+used])
		copy(via[:], raw[1+used:])
		route := Route{Dst: netip.PrefixFrom(netip.AddrFrom4(prefix), length).Masked()}
		if via != ([4]byte{}) {
			route.Via = netip.AddrFrom4(via)
		}
		routes = append(routes, route)
		raw = raw[1+used+4:]
	}
	return routes
}

// name reads a host or domain name. It ends up in files and on the console, so anything but letters, digits, hyphens
// and dots makes it empty.
func name(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) string {
	text := strings.TrimRight(string(m.Options.Get(code)), "\x00")
	if !ValidName(text) {
		return ""
	}
	return text
}

// ValidName says whether text is fit to be a host or domain name.
func ValidName(text string) bool {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	}
	return text != "" && len(text) <= 253 && !strings.ContainsFunc(text, bad) && text[0] != '-' && text[0] != '.'
}

// ResolvConf is the resolver's configuration for a lease.
func (l Lease) ResolvConf() string {
	var b strings.Builder
	if l.Domain != "" {
		fmt.Fprintf(&b, "search %s\n", l.Domain)
	}
	for _, server := range l.DNS[:min(3, len(l.DNS))] { // resolvers read no more than three
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	b.WriteString("options timeout:2 attempts:3\n")
	return b.String()
}
