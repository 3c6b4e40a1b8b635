package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/ids"
)

const (
	vpcOne   = ids.VPC("vpc-00000000000000001")
	instance = ids.Instance("i-00000000000000001")
)

type directory struct{ vpc ids.VPC }

func (d directory) Guest(a netip.Addr) (guest.Guest, bool) {
	return guest.Guest{Interface: host.Interface{VPC: d.vpc}, Instance: host.Instance{Region: "us-nimbrel-1"}}, a.IsLoopback()
}

func (directory) Mapped(vpc ids.VPC, a netip.Addr) (host.Mapping, bool) {
	return host.Mapping{Instance: instance}, vpc == vpcOne && a == netip.MustParseAddr("10.0.0.5")
}

func (directory) Address(vpc ids.VPC, i ids.Instance) (netip.Addr, bool) {
	return netip.MustParseAddr("10.0.0.5"), vpc == vpcOne && i == instance
}

// serve starts a server on loopback and returns its address for both protocols.
func serve(t *testing.T, o Options) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(o).Serve(ctx, c, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func ask(t *testing.T, server, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, kind)
	reply, _, err := (&dns.Client{Net: network, Timeout: 10e9}).Exchange(q, server)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return reply
}

func TestNames(t *testing.T) {
	server := serve(t, Options{Directory: directory{vpcOne}})
	for _, network := range []string{"udp", "tcp"} {
		for _, name := range []string{"ip-10-0-0-5.us-nimbrel-1.compute.internal.", "IP-10-0-0-5.US-nimbrel-1.compute.internal.", string(instance) + ".us-nimbrel-1.compute.internal."} {
			r := ask(t, server, network, name, dns.TypeA)
			if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != "10.0.0.5" {
				t.Errorf("%s %s: %v", network, name, r)
			}
		}
	}
	if r := ask(t, server, "udp", "ip-10-0-0-5.us-nimbrel-1.compute.internal.", dns.TypeAAAA); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 {
		t.Errorf("AAAA of an IPv4 name: %v", r)
	}
	if r := ask(t, server, "udp", "5.0.0.10.in-addr.arpa.", dns.TypePTR); len(r.Answer) != 1 || r.Answer[0].(*dns.PTR).Ptr != "ip-10-0-0-5.us-nimbrel-1.compute.internal." {
		t.Errorf("pointer: %v", r)
	}
	for name, want := range map[string]int{
		"ip-10-0-0-6.us-nimbrel-1.compute.internal.":         dns.RcodeNameError,
		"ip-nonsense.us-nimbrel-1.compute.internal.":         dns.RcodeNameError,
		"i-00000000000000002.us-nimbrel-1.compute.internal.": dns.RcodeNameError,
		"example.org.": dns.RcodeRefused,
	} {
		if r := ask(t, server, "udp", name, dns.TypeA); r.Rcode != want {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[r.Rcode], dns.RcodeToString[want])
		}
	}
}

func TestAnotherVPCSeesNothing(t *testing.T) {
	server := serve(t, Options{Directory: directory{"vpc-00000000000000002"}})
	if r := ask(t, server, "udp", "ip-10-0-0-5.us-nimbrel-1.compute.internal.", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Errorf("a name of another VPC: %v", r)
	}
}

func TestForwarding(t *testing.T) {
	upstream := serve(t, Options{Directory: directory{vpcOne}})
	server := serve(t, Options{Directory: directory{"vpc-00000000000000002"}, Forwarders: []string{upstream}})
	// The upstream here is another VPC's resolver: it answers the pointer that this VPC does not have.
	if r := ask(t, server, "udp", "5.0.0.10.in-addr.arpa.", dns.TypePTR); len(r.Answer) != 1 {
		t.Errorf("forwarded: %v", r)
	}
	dead := serve(t, Options{Directory: directory{vpcOne}, Forwarders: []string{"127.0.0.1:1"}})
	if r := ask(t, dead, "udp", "example.org.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("dead forwarder: %v", r)
	}
}

func TestRateLimit(t *testing.T) {
	s := New(Options{Directory: directory{vpcOne}})
	id, now := ids.Interface("eni-00000000000000001"), time.Now()
	if !s.limiter(id).AllowN(now, queryBurst) || s.limiter(id).AllowN(now, 1) {
		t.Error("the burst is not what it should be")
	}
	for i := range limitersMax {
		s.limiter(ids.Interface(fmt.Sprint("eni-", i)))
	}
	if len(s.limiters) > limitersMax {
		t.Errorf("%d limiters, at most %d", len(s.limiters), limitersMax)
	}
}

// TestForwardsAreBounded has one guest with as many questions at the forwarder as it may: it gets no more answers from
// there until one has ended, and keeps no other guest from being served.
func TestForwardsAreBounded(t *testing.T) {
	upstream := serve(t, Options{Directory: directory{vpcOne}})
	s := New(Options{Directory: directory{}, Forwarders: []string{upstream}})
	answered := func(id ids.Interface) bool {
		query := new(dns.Msg).SetQuestion("5.0.0.10.in-addr.arpa.", dns.TypePTR)
		return s.answer(guest.Guest{Interface: host.Interface{ID: id}}, query, "tcp").Rcode == dns.RcodeSuccess
	}
	const greedy, other = ids.Interface("eni-00000000000000001"), ids.Interface("eni-00000000000000002")
	for range forwardsPerGuest {
		if !s.beginForward(greedy) {
			t.Fatal("refused within the bound")
		}
	}
	if answered(greedy) || !answered(other) {
		t.Error("want the greedy guest refused and the other served")
	}
	s.endForward(greedy)
	if !answered(greedy) {
		t.Error("refused although one question has ended")
	}
	for i := range forwardsMax {
		s.beginForward(ids.Interface(fmt.Sprint("eni-", i)))
	}
	if s.forwards != forwardsMax || answered(other) {
		t.Errorf("%d questions wait, at most %d", s.forwards, forwardsMax)
	}
}

// FuzzAnswer asks whatever decodes as a message. The answer is of that question, can be sent, and tells a guest of another
// VPC nothing.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"ip-10-0-0-5.us-nimbrel-1.compute.internal.", string(instance) + ".us-nimbrel-1.compute.internal.",
		"5.0.0.10.in-addr.arpa.", "example.com.", "ip-10-0-0-256.us-nimbrel-1.compute.internal.", "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeANY} {
			packed, err := new(dns.Msg).SetQuestion(name, kind).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed)
		}
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1}) // a name that points at itself
	s := New(Options{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		q := new(dns.Msg)
		if q.Unpack(packet) != nil {
			return
		}
		for _, vpc := range []ids.VPC{vpcOne, "vpc-00000000000000002"} {
			s.options.Directory = directory{vpc}
			g, _ := s.options.Directory.Guest(netip.MustParseAddr("127.0.0.1"))
			reply := s.answer(g, q, "udp")
			if reply.Id != q.Id || !reply.Response || len(reply.Answer) > 1 {
				t.Fatalf("%v is answered with %v", q, reply)
			}
			if vpc != vpcOne && len(reply.Answer) > 0 {
				t.Fatalf("another VPC's guest is told %v", reply)
			}
			if _, err := reply.Pack(); err != nil {
				t.Fatalf("answer to %v: %v", q, err)
			}
		}
	})
}
