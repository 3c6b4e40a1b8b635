package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
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
			for _, open := range f.hosts[i].ports {
				if n := entries(t, f.hosts[i].programs.Flows, open.slot); n != 0 {
					t.Errorf("host %d holds %d answered flows of port %d", i, n, open.slot)
				}
			}
		}
		b.want(a, tcp(22), DeniedIngress)
	})
}

// portTable is the table of a port.
func portTable(t *testing.T, outer *ebpf.Map, slot uint32) *ebpf.Map {
	t.Helper()
	table, err := tableAt(outer, slot)
	if err != nil || table == nil {
		t.Fatalf("table of port %d: %v, %v", slot, table, err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func entries(t *testing.T, outer *ebpf.Map, slot uint32) (n int) {
	t.Helper()
	var key flowKey
	var value flowRecord
	for all := portTable(t, outer, slot).Iterate(); all.Next(&key, &value); {
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
		open := f.hosts[i].portOf(g.in.ID)
		flood(t, portTable(t, f.hosts[i].programs.HalfOpen, open.slot), open)
	}
	v.group(1) // so that only the flow table lets pass
	f.apply(v)
	established := tcp(22)
	established.syn, established.ack = false, true
	insist(a, b, established)
	insist(b, a, reply(established))
}

// TestFloodingPortEvictsNoFlowOfAnother floods a guest's own tables, and sends more half-open flows than any table ever
// held, while its neighbour has an answered flow and one that waits for its answer.
func TestFloodingPortEvictsNoFlowOfAnother(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, openToAll)
	v.group(2)
	quiet, noisy, far := v.guest(0, "10.0.1.10", 2), v.guest(0, "10.0.1.11", 2), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	quiet.want(far, tcp(22), passed)
	far.want(quiet, reply(tcp(22)), passed)
	quiet.want(far, udp(9), passed) // and is not answered yet
	h := f.hosts[0]
	open := h.portOf(noisy.in.ID)
	for _, outer := range []*ebpf.Map{h.programs.Flows, h.programs.HalfOpen} {
		table := portTable(t, outer, open.slot)
		flood(t, table, open)
		if n := entries(t, outer, open.slot); n > int(table.MaxEntries()) {
			t.Errorf("%d entries in a table of %d", n, table.MaxEntries())
		}
	}
	p := udp(1000)
	p.dst = far.addr
	frame := noisy.build(p)
	binary.BigEndian.PutUint16(frame[40:], 0) // no checksum
	for n := range 40000 {
		binary.BigEndian.PutUint16(frame[34:], uint16(n))
		noisy.write(frame)
	}
	established := tcp(22)
	established.syn, established.ack = false, true
	v.group(1) // so that only the flow table lets pass
	f.apply(v)
	insist(far, quiet, reply(established))
	insist(far, quiet, reply(udp(9)))
	if now, other := h.portOf(noisy.in.ID).slot, h.portOf(quiet.in.ID).slot; entries(t, h.programs.HalfOpen, other) > 2 || entries(t, h.programs.HalfOpen, now) < 1000 {
		t.Errorf("flows are in another port's table: %d of the quiet one", entries(t, h.programs.HalfOpen, other))
	}
	slot := open.slot
	check(t, h.CloseTap(context.Background(), noisy.in.ID))
	for _, outer := range []*ebpf.Map{h.programs.Flows, h.programs.HalfOpen, h.programs.Fragments} {
		if table, err := tableAt(outer, slot); table != nil || err != nil {
			t.Errorf("a closed port still has tables: %v, %v", table, err)
		}
	}
}

// TestSharedTablesAreTakenOver: agents of before kept the flows of all ports in one table. Their successor goes on with
// them, and keeps the tables no longer than the last program that used them.
func TestSharedTablesAreTakenOver(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, openToAll)
	v.group(2)
	a, b := v.guest(0, "10.0.1.10", 2), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	a.want(b, tcp(22), passed)
	b.want(a, reply(tcp(22)), passed)
	a.want(b, udp(9), passed)
	h := f.hosts[0]
	slot := h.portOf(a.in.ID).slot
	for pin, outer := range map[string]*ebpf.Map{sharedFlows: h.programs.Flows, sharedHalfOpen: h.programs.HalfOpen} {
		spec := *h.programs.tables["port_flows"]
		shared, err := ebpf.NewMap(&spec)
		check(t, err)
		var key flowKey
		var value flowRecord
		n := 0
		for all := portTable(t, outer, slot).Iterate(); all.Next(&key, &value); n++ {
			check(t, shared.Put(key, value))
		}
		key.Slot = 99 // of a port that is closed
		check(t, errors.Join(shared.Put(key, value), shared.Pin(filepath.Join(h.pins, pin)), shared.Close()))
		if n != 1 {
			t.Fatalf("%d flows in %s, want 1", n, pin)
		}
	}
	check(t, h.programs.dropTables(slot))
	b.want(a, reply(tcp(22)), Internal) // a port without tables passes nothing
	f.reopen(0)
	f.apply(v)
	b.want(a, reply(tcp(22)), passed)
	b.want(a, reply(udp(9)), passed)
	for _, pin := range []string{sharedFlows, sharedHalfOpen, sharedFragments} {
		if _, err := os.Stat(filepath.Join(h.pins, pin)); err == nil {
			t.Errorf("%s is still there", pin)
		}
	}
}

// flowTwin is struct flow_key; its value is only filled.
type flowTwin struct {
	Slot, Epoch   uint16
	Local, Remote addr4
	Ports         uint32
	Protocol      uint8
	Pad           [3]byte
}

// flood fills a table of a port four times over, as the port's guest would, but in milliseconds.
func flood(t *testing.T, table *ebpf.Map, from *port) {
	t.Helper()
	const batch = 4096
	keys, values := make([]flowTwin, batch), make([][16]byte, batch)
	for i := range values {
		binary.NativeEndian.PutUint64(values[i][:], 1<<62)
	}
	size := int(table.MaxEntries())
	for n := 0; n < 4*size; n += batch {
		for i := range keys {
			keys[i] = flowTwin{Slot: uint16(from.slot), Epoch: from.record.Epoch, Local: from.record.Address, Ports: uint32(n + i), Protocol: 6}
		}
		for range 2 { // once more, as a retransmitted SYN: the kernel spares what was used twice over what was used once
			if _, err := table.BatchUpdate(keys, values, nil); err != nil {
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
