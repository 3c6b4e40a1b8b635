// Package dhcp answers guests' DHCPv4 requests with what their interface's record says.
//
// There is no pool and no lease table: the address is the interface's own, for ever, and a lease only makes the guest ask
// again. A request for another address is refused (NAK), so that a guest with a copied disk starts over. The server's
// identifier is the metadata address, where renewals by unicast arrive by the same path.
//
// Source: RFC 2131, RFC 2132; option 26 (interface MTU) as EC2 sends it.
//
// Deliberately absent: relays, BOOTP, INFORM, DHCPv6, options that clients ask for beyond those given.
package dhcp

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/env"
)

const (
	// lease is how long an answer lasts; guests renew at half of it.
	lease = time.Hour
	// requestBytesMax bounds a request that is read; longer ones are cut and fail to parse.
	requestBytesMax = 1500
)

// rate is of one guest's requests. A client that boots sends two or three; one whose answers are lost, one in seconds.
var rate = guest.Rate{PerSecond: 2, Burst: 20}

// Server answers requests. Its methods are safe for concurrent use.
type Server struct {
	directory guest.Directory
}

// New returns a server of the directory's guests.
func New(d guest.Directory) *Server { return &Server{directory: d} }

// Serve answers on c until ctx ends. The source of a datagram stands for a guest's port.
func (s *Server) Serve(ctx context.Context, c net.PacketConn) {
	guest.ServePackets(ctx, c, env.System().Clock, rate, requestBytesMax, s.answer)
}

// answer returns the reply's bytes, or nil for a request that deserves none: malformed, a stranger's, or of a type that a
// server only notes.
func (s *Server) answer(source netip.Addr, raw []byte) []byte {
	request, err := dhcpv4.FromBytes(raw)
	if err != nil || request.OpCode != dhcpv4.OpcodeBootRequest {
		return nil
	}
	g, ok := s.directory.Guest(source)
	if !ok {
		return nil
	}
	address, err := g.Interface.Address()
	if err != nil {
		return nil
	}
	var kind dhcpv4.MessageType
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
		if !asksFor(request, address) {
			return refuse(request)
		}
	default:
		return nil
	}
	reply, err := dhcpv4.NewReplyFromRequest(request, modifiers(g, address, kind)...)
	if err != nil {
		return nil
	}
	return reply.ToBytes()
}

// asksFor says whether a request is for the address that the interface has. A renewal carries it as the client's own.
func asksFor(request *dhcpv4.DHCPv4, address netip.Addr) bool {
	wanted := request.RequestedIPAddress()
	if wanted == nil || wanted.IsUnspecified() {
		wanted = request.ClientIPAddr
	}
	got, ok := netip.AddrFromSlice(wanted.To4())
	return ok && got == address
}

func refuse(request *dhcpv4.DHCPv4) []byte {
	reply, err := dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip(guest.MetadataAddress))),
		dhcpv4.WithOption(dhcpv4.OptMessage("this interface has another address: ask again")))
	if err != nil {
		return nil
	}
	return reply.ToBytes()
}

func modifiers(g guest.Guest, address netip.Addr, kind dhcpv4.MessageType) []dhcpv4.Modifier {
	subnet, _ := netip.ParsePrefix(g.Interface.SubnetCIDR) // Address has parsed it
	gateway, _ := g.Interface.Gateway()
	resolver, _ := g.Interface.Resolver()
	name := g.Interface.PrivateDNSName(g.Instance.Region)
	host, domain, _ := strings.Cut(name, ".")
	m := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(ip(address)),
		dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(lease)),
		dhcpv4.WithServerIP(ip(guest.MetadataAddress)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip(guest.MetadataAddress))),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(subnet.Bits(), 32))),
		dhcpv4.WithOption(dhcpv4.OptRouter(ip(gateway))),
		dhcpv4.WithOption(dhcpv4.OptDNS(ip(resolver))),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(ip(guest.TimeAddress))),
		dhcpv4.WithOption(dhcpv4.OptHostName(host)),
		dhcpv4.WithOption(dhcpv4.OptDomainName(domain)),
	}
	if g.MTU > 0 {
		m = append(m, dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(g.MTU)}))
	}
	return m
}

func ip(a netip.Addr) net.IP { return net.IP(a.AsSlice()) }
