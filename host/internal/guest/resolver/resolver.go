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
	// forwardsPerGuest and forwardsMax bound the queries that wait for a forwarder, of one interface and of all: each holds
	// a socket, for as long as a dead forwarder takes.
	forwardsPerGuest, forwardsMax = 64, 1024
	// connectionsPerGuest and connectionsMax bound the TCP connections.
	connectionsPerGuest, connectionsMax = 32, 2048
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

	mu         sync.Mutex
	limiters   map[ids.Interface]*rate.Limiter // mu
	forwarding map[ids.Interface]int           // mu; never 0
	forwards   int                             // mu; sum of forwarding
}

// New returns a server.
func New(o Options) *Server {
	return &Server{options: o, limiters: map[ids.Interface]*rate.Limiter{}, forwarding: map[ids.Interface]int{}}
}

// Serve answers on both sockets until ctx ends.
func (s *Server) Serve(ctx context.Context, c net.PacketConn, l net.Listener) error {
	servers := []*dns.Server{
		{PacketConn: c, Handler: s, UDPSize: dns.DefaultMsgSize},
		{Listener: guest.Limit(l, connectionsPerGuest, connectionsMax), Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second},
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
	if !ok || !s.limiter(g.Interface.ID).Allow() {
		return
	}
	if err := w.WriteMsg(s.answer(g, q, w.RemoteAddr().Network())); err != nil {
		slog.Debug("send DNS reply", "peer", source, "err", err)
	}
}

// limiter is by interface and not by source: a guest has a source for each of the resolver's addresses.
func (s *Server) limiter(id ids.Interface) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiters[id]
	if l == nil {
		if len(s.limiters) >= limitersMax {
			clear(s.limiters)
		}
		l = rate.NewLimiter(queriesPerSecond, queryBurst)
		s.limiters[id] = l
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
		return s.forward(reply, g, q, network)
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

// forward asks the operator's servers in turn. A guest that has too many questions there is told to ask later.
func (s *Server) forward(reply *dns.Msg, g guest.Guest, q *dns.Msg, network string) *dns.Msg {
	if len(s.options.Forwarders) == 0 {
		reply.Rcode = dns.RcodeRefused
		return reply
	}
	reply.Rcode = dns.RcodeServerFailure
	if !s.beginForward(g.Interface.ID) {
		return reply
	}
	defer s.endForward(g.Interface.ID)
	client := dns.Client{Net: network, Timeout: forwardTimeout}
	for _, server := range s.options.Forwarders {
		if answer, _, err := client.Exchange(q, server); err == nil {
			return answer
		}
	}
	return reply
}

func (s *Server) beginForward(id ids.Interface) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forwarding[id] >= forwardsPerGuest || s.forwards >= forwardsMax {
		return false
	}
	s.forwarding[id]++
	s.forwards++
	return true
}

func (s *Server) endForward(id ids.Interface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forwards--
	if s.forwarding[id]--; s.forwarding[id] == 0 {
		delete(s.forwarding, id)
	}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttlSeconds}
}
