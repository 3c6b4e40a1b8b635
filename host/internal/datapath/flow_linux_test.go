package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// TestRevokedRuleKeepsFlows: what runs goes on, what is new is refused, and a flow that ended is new.
func TestRevokedRuleKeepsFlows(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		v.group(2)
		a, b := v.guest(0, "10.0.1.10", 2), v.guest(1, "10.0.1.20", 1)
		f.apply(v)
		data := func(p packetSpec) packetSpec {
			p.syn, p.ack = false, true
			return p
		}
		a.want(b, tcp(22), passed)
		b.want(a, reply(tcp(22)), passed)
		a.want(b, udp(9), passed)
		v.group(1) // revoked
		f.apply(v)
		a.want(b, data(tcp(22)), passed)
		b.want(a, data(reply(tcp(22))), passed)
		a.want(b, udp(9), passed)
		b.want(a, reply(udp(9)), passed)
		a.want(b, tcp(23), DeniedIngress)
		reset := data(tcp(22))
		reset.rst = true
		a.want(b, reset, passed)
		a.want(b, tcp(22), DeniedIngress)
	})
}

// TestSlotsForgetFlows closes a tap and gives its slot to the next guest with the same address.
func TestSlotsForgetFlows(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1)
	a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	a.want(b, udp(9), DeniedIngress)
	b.want(a, udp(9), DeniedIngress)
	b.write(b.build(udp(9).to(a.addr)))
	a.want(b, reply(udp(9)), passed) // b's own flow
	slot := f.hosts[1].portOf(b.in.ID).slot
	if _, err := f.hosts[1].OpenTap(context.Background(), b.in, false); !errors.Is(err, ErrTapOpen) {
		t.Errorf("open an open tap: %v", err)
	}
	check(t, f.hosts[1].CloseTap(context.Background(), b.in.ID))
	check(t, f.hosts[1].CloseTap(context.Background(), b.in.ID))
	f.hosts[1].lastSlot = slot - 1
	again := v.open(1, b.in)
	if now := f.hosts[1].portOf(b.in.ID).slot; now != slot {
		t.Fatalf("slot %d, want %d again", now, slot)
	}
	f.apply(v)
	a.want(again, reply(udp(9)), DeniedIngress)
}

// icmpAbout is an ICMP error from one guest to another about a packet.
func (g *guest) icmpAbout(to netip.Addr, about []byte) []byte {
	p := packetSpec{proto: layers.IPProtocolICMPv4, icmp: layers.CreateICMPv4TypeCode(3, 3), dst: to, payload: about[14:42]}
	frame := g.build(p)
	binary.BigEndian.PutUint32(frame[38:], 0)
	binary.BigEndian.PutUint16(frame[36:], 0)
	binary.BigEndian.PutUint16(frame[36:], onesComplement(frame[34:]))
	return frame
}

// TestICMPErrorsBelongToFlows lets an error pass when it is about a flow, back to its sender only.
func TestICMPErrorsBelongToFlows(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1)
		v.group(2, allow(17, 9, 9, "0.0.0.0/0"))
		a, b, c := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 2), v.guest(0, "10.0.1.30", 1)
		f.apply(v)
		a.want(b, udp(9), passed)
		sent := udp(9)
		sent.dst = b.addr
		about := a.build(sent)
		error3 := b.icmpAbout(a.addr, about)
		if got := b.send(a, error3, about[14:42]); got.reason != passed {
			t.Errorf("error about a flow: %v", got)
		} else {
			verify(t, got.frame)
		}
		other := sent
		other.dport = 10
		if got := b.send(a, b.icmpAbout(a.addr, a.build(other)), []byte("never")); got.reason != Untracked {
			t.Errorf("error about no flow: %v", got)
		}
		if got := b.send(c, b.icmpAbout(c.addr, about), []byte("never")); got.reason != Untracked {
			t.Errorf("error to a third guest: %v", got)
		}
		// An error is no answer: the flow stays half open, and a new one the other way is still judged.
		b.want(a, tcp(22), DeniedIngress)
	})
}

// TestHalfOpenFloodEvictsNoAnsweredFlow sends more unanswered flows than fit.
func TestHalfOpenFloodEvictsNoAnsweredFlow(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, allow(6, 22, 22, "0.0.0.0/0"))
	v.group(2)
	a, b, flooder := v.guest(0, "10.0.1.10", 2), v.guest(1, "10.0.1.20", 1), v.guest(0, "10.0.1.30", 2)
	f.apply(v)
	a.want(b, tcp(22), passed)
	b.want(a, reply(tcp(22)), passed)
	p := tcp(22)
	p.dst = b.addr
	frame := flooder.build(p)
	for n := range 50000 { // checksums do not matter to nobody
		binary.BigEndian.PutUint16(frame[34:], uint16(n))
		binary.BigEndian.PutUint16(frame[36:], 22)
		flooder.write(frame)
	}
	v.group(1) // so that only the flow table lets pass
	f.apply(v)
	established := tcp(22)
	established.syn, established.ack = false, true
	a.want(b, established, passed)
	b.want(a, reply(established), passed)
}
