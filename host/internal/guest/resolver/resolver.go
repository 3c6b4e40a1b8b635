// Package resolver is the DNS server that guests find at their VPC's base + 2.
//
// It knows the private names of the guest's own VPC (ip-10-0-0-5.REGION.compute.internal, i-ID.REGION.compute.internal,
// and the reverse of both) from the mappings that the host holds anyway, so names work without any control plane. Other
// names go to the operator's forwarders, or are refused when there are none. Each interface may ask 1,024 times a
// second, as in EC2; more is dropped.
//
// Deliberately absent: zones of the user's own, caching, recursion, DNSSEC.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/ids"
)

const (
	// queriesPerSecond and queryBurst bound one interface.
	queriesPerSecond, queryBurst = 1024, 1024
	ttlSeconds                   = 60
	forwardTimeout               = 3 * time.Second
	// limitersMax bounds the table of rate limits; it is emptied when full, which only forgives.
	limitersMax = 4096
	zoneSuffix  = ".compute.internal."
)

// Options configures a Server.
type Options struct {
	Directory guest.Directory
	// Forwarders are "address:port" of DNS servers asked for names that are not this VPC's; none means refuse.
	Forwarders []string
}

// Server answers guests' queries. It is safe for concurrent use.
type Server struct {
	options Options

	mu       sync.Mutex
	limiters map[netip.Addr]*rate.Limiter
}

// New returns a server.
func New(o Options) *Server {
	return &Server{options: o, limiters: map[netip.Addr]*rate.Limiter{}}
}

// Serve answers on both sockets until ctx ends.
func (s *Server) Serve(ctx context.Context, c net.PacketConn, l net.Listener) error {
	servers := []*dns.Server{
		{PacketConn: c, Handler: s, UDPSize: dns.DefaultMsgSize},
		{Listener: l, Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second},
	}
	results := make(chan error, len(servers))
	for _, d := range servers {
		go func() { results <- d.ActivateAndServe() }()
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = l.Close() })
	defer stop()
	var errs []error
	for range servers {
		if err := <-results; err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
		_, _ = c.Close(), l.Close() // one without the other is no service
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve DNS: %w", errors.Join(errs...))
}

// ServeDNS answers one query of the guest that the remote address stands for; strangers get nothing.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	peer, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	source := peer.Addr().Unmap()
	g, ok := s.options.Directory.Guest(source)
	if !ok || !s.limiter(source).Allow() {
		return
	}
	if err := w.WriteMsg(s.answer(g, q, w.RemoteAddr().Network())); err != nil {
		slog.Debug("send DNS reply", "peer", source, "err", err)
	}
}

func (s *Server) limiter(source netip.Addr) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiters[source]
	if l == nil {
		if len(s.limiters) >= limitersMax {
			clear(s.limiters)
		}
		l = rate.NewLimiter(queriesPerSecond, queryBurst)
		s.limiters[source] = l
	}
	return l
}

// answer makes the whole reply. network is "udp" or "tcp"; forwarded queries keep it.
func (s *Server) answer(g guest.Guest, q *dns.Msg, network string) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(q)
	reply.RecursionAvailable = len(s.options.Forwarders) > 0
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		reply.Rcode = dns.RcodeNotImplemented
		return reply
	}
	name := strings.ToLower(q.Question[0].Name)
	switch zone := "." + g.Instance.Region + zoneSuffix; {
	case strings.HasSuffix(name, zone):
		reply.Authoritative = true
		s.own(reply, g, strings.TrimSuffix(name, zone))
	case s.reverse(reply, g, name):
		reply.Authoritative = true
	default:
		return s.forward(reply, q, network)
	}
	return reply
}

// own answers a name of the VPC's own zone: an address record, or an empty answer for other types.
func (s *Server) own(reply *dns.Msg, g guest.Guest, label string) {
	address, ok := s.lookup(g, label)
	if !ok {
		reply.Rcode = dns.RcodeNameError
		return
	}
	question := reply.Question[0]
	if question.Qtype == dns.TypeA || question.Qtype == dns.TypeANY {
		reply.Answer = append(reply.Answer, &dns.A{Hdr: header(question.Name, dns.TypeA), A: net.IP(address.AsSlice())})
	}
}

func (s *Server) lookup(g guest.Guest, label string) (netip.Addr, bool) {
	if dashed, ok := strings.CutPrefix(label, "ip-"); ok {
		address, err := netip.ParseAddr(strings.ReplaceAll(dashed, "-", "."))
		if err != nil {
			return netip.Addr{}, false
		}
		_, mapped := s.options.Directory.Mapped(g.Interface.VPC, address)
		return address, mapped
	}
	id, err := ids.Parse[ids.Instance](label)
	if err != nil {
		return netip.Addr{}, false
	}
	return s.options.Directory.Address(g.Interface.VPC, id)
}

// reverse answers the pointer of a mapped address; false when the name is none.
func (s *Server) reverse(reply *dns.Msg, g guest.Guest, name string) bool {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return false
	}
	parts := strings.Split(digits, ".")
	if len(parts) != 4 {
		return false
	}
	address, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
	if err != nil {
		return false
	}
	if _, mapped := s.options.Directory.Mapped(g.Interface.VPC, address); !mapped {
		return false
	}
	target := host.PrivateDNSName(address, g.Instance.Region) + "."
	reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(reply.Question[0].Name, dns.TypePTR), Ptr: target})
	return true
}

// forward asks the operator's servers in turn.
func (s *Server) forward(reply, q *dns.Msg, network string) *dns.Msg {
	client := dns.Client{Net: network, Timeout: forwardTimeout}
	for _, server := range s.options.Forwarders {
		if answer, _, err := client.Exchange(q, server); err == nil {
			return answer
		}
	}
	reply.Rcode = dns.RcodeRefused
	if len(s.options.Forwarders) > 0 {
		reply.Rcode = dns.RcodeServerFailure
	}
	return reply
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttlSeconds}
}
