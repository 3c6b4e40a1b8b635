package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
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
		before, err := f.hosts[1].Counters(b.in.ID)
		check(t, err)
		if got := b.send(c, b.icmpAbout(c.addr, about), []byte("never")); got.reason != Untracked {
			t.Errorf("error to a third guest: %v", got)
		}
		if after, err := f.hosts[1].Counters(b.in.ID); err != nil || after.Dropped(Untracked) != before.Dropped(Untracked)+1 {
			t.Errorf("the error to a third guest left its sender's port: %v", err)
		}
		// An error is no answer.
		for i := range f.hosts {
			if n := entries(t, f.hosts[i].programs.Flows); n != 0 {
				t.Errorf("host %d holds %d answered flows", i, n)
			}
		}
		b.want(a, tcp(22), DeniedIngress)
	})
}

func entries(t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	var key flowTwin
	var value [16]byte
	for all := m.Iterate(); all.Next(&key, &value); {
		n++
	}
	return n
}

// TestHalfOpenFloodEvictsNoAnsweredFlow sends more unanswered flows than fit.
func TestHalfOpenFloodEvictsNoAnsweredFlow(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, allow(6, 22, 22, "0.0.0.0/0"))
	v.group(2)
	a, b := v.guest(0, "10.0.1.10", 2), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	a.want(b, tcp(22), passed)
	b.want(a, reply(tcp(22)), passed)
	for i, g := range []*guest{a, b} {
		flood(t, f.hosts[i], f.hosts[i].portOf(g.in.ID))
	}
	v.group(1) // so that only the flow table lets pass
	f.apply(v)
	established := tcp(22)
	established.syn, established.ack = false, true
	insist(a, b, established)
	insist(b, a, reply(established))
}

// flowTwin is struct flow_key; its value is only filled.
type flowTwin struct {
	Slot, Epoch   uint16
	Local, Remote addr4
	Ports         uint32
	Protocol      uint8
	Pad           [3]byte
}

// flood fills the half-open table four times over, as SYNs of the port's guest would, but in milliseconds.
func flood(t *testing.T, h *testHost, from *port) {
	t.Helper()
	const batch = 4096
	keys, values := make([]flowTwin, batch), make([][16]byte, batch)
	for i := range values {
		binary.NativeEndian.PutUint64(values[i][:], 1<<62)
	}
	size := int(h.programs.HalfOpen.MaxEntries())
	for n := 0; n < 4*size; n += batch {
		for i := range keys {
			keys[i] = flowTwin{Slot: uint16(from.slot), Epoch: from.record.Epoch, Local: from.record.Address, Ports: uint32(n + i), Protocol: 6}
		}
		for range 2 { // once more, as a retransmitted SYN: the kernel spares what was used twice over what was used once
			if _, err := h.programs.HalfOpen.BatchUpdate(keys, values, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// insist sends a packet until it arrives: the flood's tail may still fill the receiver's tap queue. A drop by a program
// fails the test.
func insist(from, to *guest, p packetSpec) {
	t := from.vpc.t
	t.Helper()
	before, mark := from.vpc.drops(), tag()
	p.dst, p.payload = to.addr, mark
	frame := from.build(p)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(patience); ; {
		select {
		case got := <-to.frames:
			if bytes.Contains(got, mark) {
				return
			}
		case <-again.C:
			from.write(frame)
			if after := from.vpc.drops(); after != before {
				t.Fatalf("drops grew from %v to %v", before, after)
			}
		case <-deadline:
			t.Fatal("an answered flow no longer passes")
		}
	}
}
