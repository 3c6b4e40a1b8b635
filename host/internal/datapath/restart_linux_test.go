package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// reopen is an agent's death and its successor's start: descriptors close, nothing else happens.
func (f *fabric) reopen(i int) {
	f.t.Helper()
	check(f.t, f.hosts[i].Close())
	f.open(i)
}

// onHooks counts the programs of ours on each device of a host: TCX programs and filters, drop_all apart.
func (f *fabric) onHooks(i int) map[string]int {
	f.t.Helper()
	found := map[string]int{}
	space := f.hosts[i].dataplane
	devices, err := space.links.LinkList()
	check(f.t, err)
	for _, device := range devices {
		if device.Attrs().Name == "lo" {
			continue
		}
		filters, err := space.links.FilterList(device, 0xfffffff2)
		check(f.t, err)
		for _, filter := range filters {
			if filter.Attrs().Priority == priorityOurs {
				found[device.Attrs().Name]++
			}
		}
		check(f.t, space.do(func() error {
			result, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				found[device.Attrs().Name] += len(result.Programs)
			}
			return nil
		}))
	}
	return found
}

// TestRestartLosesNothing restarts both agents ten times under traffic, without the state and then with it, and counts
// what arrives. The last rounds change how programs are attached.
func TestRestartLosesNothing(t *testing.T) {
	for _, l := range legs[1:3] {
		t.Run(l.String(), func(t *testing.T) {
			f := newFabric(t, l)
			v := f.vpc(77)
			v.group(1, allow(17, 9, 9, "0.0.0.0/0"))
			a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
			f.apply(v)
			a.want(b, udp(9), passed)
			var stop atomic.Bool
			sent := make(chan int)
			go func() { sent <- a.stream(b, &stop) }()
			received := make(chan int)
			go func() { received <- b.count() }()
			for round := range 10 {
				if round >= 8 {
					f.hosts[0].options.Attach = []AttachMode{AttachClsact, AttachAuto}[round-8]
					f.hosts[1].options.Attach = f.hosts[0].options.Attach
				}
				f.reopen(0)
				f.reopen(1)
				f.apply(v)
				for device, n := range f.onHooks(0) {
					if n != 1 {
						t.Errorf("round %d: %d programs on %s", round, n, device)
					}
				}
			}
			stop.Store(true)
			n := <-sent
			a.write(a.build(packetSpec{proto: 17, sport: 40000, dport: 9, dst: b.addr, payload: []byte("the last")}))
			got := <-received
			t.Logf("%d packets sent, %d received", n, got)
			if got != n || n < 100 {
				t.Errorf("%d of %d packets arrived", got, n)
			}
		})
	}
}

// TestOneProgramOnEachHook leaves on every device what lost pins and other ways to attach leave behind, and wants exactly
// one program there after each adoption, and that one new.
func TestOneProgramOnEachHook(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, openToAll)
	a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	h := f.hosts[0]
	stray := func(name string, program *ebpf.Program, at link.Anchor) {
		device, err := h.dataplane.links.LinkByName(name)
		check(t, err)
		if h.tcx {
			// The kernel takes no program twice: as a stray any other does.
			check(t, h.dataplane.do(func() error {
				left, err := link.AttachTCX(link.TCXOptions{Interface: device.Attrs().Index, Program: h.programs.DropAll, Attach: ebpf.AttachTCXIngress, Anchor: at})
				if err == nil {
					t.Cleanup(func() { left.Close() })
				}
				return err
			}))
		}
		check(t, h.setFilter(device, program, priorityOurs))
	}
	for round := range 3 {
		for name, program := range map[string]*ebpf.Program{
			deviceVXLAN: h.programs.FromNet, deviceService: h.programs.FromService, tapName(a.in.ID): h.programs.FromGuest,
		} {
			stray(name, program, []link.Anchor{link.Head(), link.Tail()}[round%2])
		}
		if round == 1 { // a pin that was lost with its mount
			check(t, os.Remove(filepath.Join(h.pins, h.portOf(a.in.ID).pin())))
		}
		h.options.Attach = []AttachMode{AttachAuto, AttachAuto, AttachClsact}[round]
		f.reopen(0)
		f.apply(v)
		hooks := f.onHooks(0)
		for _, name := range []string{deviceVXLAN, deviceService, tapName(a.in.ID)} {
			if hooks[name] != 1 {
				t.Errorf("round %d: %d programs on %s", round, hooks[name], name)
			}
		}
		if len(hooks) != 3 {
			t.Errorf("round %d: devices %v", round, hooks)
		}
		a.want(b, udp(9), passed)
		b.want(a, reply(udp(9)), passed)
	}
}

// stream sends packets, each of a flow of its own, until it is stopped, and returns how many.
func (g *guest) stream(to *guest, stop *atomic.Bool) int {
	p := udp(9)
	p.dst, p.payload = to.addr, []byte("stream")
	frame := g.build(p)
	n := 0
	for ; !stop.Load(); n++ {
		binary.BigEndian.PutUint16(frame[34:], uint16(n)) // source port; a UDP checksum of 0 is none
		binary.BigEndian.PutUint16(frame[40:], 0)
		g.write(frame)
		time.Sleep(200 * time.Microsecond) // the rate: a burst would overflow queues that are not the subject
	}
	return n
}

func (g *guest) count() int {
	n := 0
	for frame := range g.frames {
		if bytes.Contains(frame, []byte("the last")) {
			return n
		}
		if bytes.Contains(frame, []byte("stream")) {
			n++
		}
	}
	return n
}

// TestChangesDisturbNobody changes rules, groups and mappings of others under traffic in which every packet is a new
// flow: whatever half of a change a packet could meet would drop it.
func TestChangesDisturbNobody(t *testing.T) {
	f := newFabric(t, legs[1])
	v := f.vpc(77)
	v.group(1, allow(17, 9, 9, "0.0.0.0/0"))
	v.group(2)
	a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	var stop atomic.Bool
	sent, received := make(chan int), make(chan int)
	go func() { sent <- a.stream(b, &stop) }()
	go func() { received <- b.count() }()
	kept := len(v.maps)
	for n := range 200 {
		rules := []host.Rule{allow(17, 9, 9, "0.0.0.0/0"), allow(6, uint16(n), uint16(n+3), "10.0.0.0/8"), allowGroup(17, 9, uint16(9+n%50), 2)}
		v.group(1, rules[:1+n%3]...)
		v.describe(n%2, fmt.Sprintf("10.0.%d.%d", 1+n%5, 100+n%100), 1+n%2, 1)
		f.apply(v)
		if n%7 == 0 {
			v.maps = v.maps[:kept]
		}
	}
	stop.Store(true)
	n := <-sent
	a.write(a.build(packetSpec{proto: 17, sport: 40000, dport: 9, dst: b.addr, payload: []byte("the last")}))
	if got := <-received; got != n || n < 100 {
		t.Errorf("%d of %d packets arrived; drops %v", got, n, f.drops())
	}
}

// TestAgentDown lets traffic go on while no agent runs, then takes the programs away too, and sees nothing pass.
func TestAgentDown(t *testing.T) {
	onLegs(t, func(t *testing.T, f *fabric) {
		v := f.vpc(77)
		v.group(1, openToAll)
		a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
		f.apply(v)
		pins := f.hosts[0].pins
		check(t, f.hosts[0].Close())
		p := udp(9)
		p.dst, p.payload = b.addr, []byte("while down")
		frame := a.build(p)
		arrives := func() {
			t.Helper()
			a.write(frame)
			if got := <-b.frames; !bytes.Contains(got, []byte("while down")) {
				t.Errorf("received %x", got)
			}
		}
		arrives()
		f.open(0)
		if _, known := f.hosts[0].Port(1); known {
			t.Error("a port is known before its state")
		}
		arrives()
		f.apply(v)
		if in, known := f.hosts[0].Port(1); !known || in.ID != a.in.ID {
			t.Errorf("port 1 is %v", in.ID)
		}
		arrives()
		// Fail closed: with the hook gone, nothing of the guest reaches a stack, its own device's address or not.
		check(t, os.RemoveAll(filepath.Join(pins, "link-port-1")))
		tap, err := f.hosts[0].dataplane.links.LinkByName(tapName(a.in.ID))
		check(t, err)
		check(t, f.hosts[0].deleteFilter(tap, priorityOurs))
		for deadline := time.Now().Add(patience); f.onHooks(0)[tapName(a.in.ID)] != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) { // the kernel takes a link away some time after its last reference
				t.Fatal("the hook is still there")
			}
		}
		before := statistic(t, f.hosts[0].dataplane)
		for _, mac := range [][]byte{GatewayMAC, tap.Attrs().HardwareAddr, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
			copy(frame, mac)
			a.write(frame)
		}
		if after := statistic(t, f.hosts[0].dataplane); after != before {
			t.Errorf("%d packets entered the host's stack", after-before)
		}
		for len(b.frames) > 0 {
			t.Errorf("arrived: %x", <-b.frames)
		}
		f.reopen(0) // and is mended
		f.apply(v)
		copy(frame, GatewayMAC)
		arrives()
	})
}

func statistic(t testing.TB, space *namespace) int { return snmp(t, space, "Ip", "InReceives") }

// TestDeadGuestsAreReleased: a guest that ends while no agent runs leaves nothing.
func TestDeadGuestsAreReleased(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, openToAll)
	a, b := v.guest(0, "10.0.1.10", 1), v.guest(0, "10.0.1.20", 1)
	f.apply(v)
	check(t, f.hosts[0].Close())
	check(t, b.tap.Close())
	for range b.frames { // until the device is gone
	}
	f.open(0)
	if len(f.hosts[0].ports) != 1 || f.hosts[0].ports[0].id() != a.in.ID {
		t.Errorf("%d ports adopted", len(f.hosts[0].ports))
	}
	if _, err := os.Stat(filepath.Join(f.hosts[0].pins, "link-port-2")); err == nil {
		t.Error("the dead guest's link is still pinned")
	}
	f.apply(v)
	again := v.open(0, b.in)
	f.apply(v)
	a.want(again, udp(9), passed)
	// The same while the agent runs: the next tap of the interface takes over.
	check(t, again.tap.Close())
	for range again.frames {
	}
	check(t, f.hosts[0].ProbeGuests()) // a port without its device is no error: its guest is off
	third := v.open(0, b.in)
	f.apply(v)
	a.want(third, udp(9), passed)
}

// TestOrphansAreCutOff gives the address of a guest that only another history names to the next, also across a restart of
// the agent and the orphan's end; and lets the guest back in when a document names it again.
func TestOrphansAreCutOff(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, openToAll)
	a, first, orphan := v.guest(1, "10.0.1.20", 1), v.guest(0, "10.0.1.30", 1), v.guest(0, "10.0.1.10", 1)
	check(t, f.hosts[0].CloseTap(context.Background(), first.in.ID))
	f.state[0].Ports, f.hosts[0].lastSlot = f.state[0].Ports[1:], 0 // the next guest's port comes before the orphan's
	f.apply(v)
	a.want(orphan, tcp(22), passed)
	orphan.want(a, udp(9), passed)

	named, mappings := f.state[0].Ports, v.maps
	f.state[0].Ports, f.state[0].Orphans, v.maps = nil, []ids.Interface{orphan.in.ID}, slices.DeleteFunc(slices.Clone(v.maps), func(m host.Mapping) bool {
		return m.Interface == orphan.in.ID
	})
	f.apply(v)
	orphan.want(a, reply(tcp(22)), DeniedEgress) // its flows too
	orphan.want(a, udp(9), DeniedEgress)
	next := v.guest(0, "10.0.1.10", 1)
	f.apply(v)
	for _, restart := range []bool{false, true} {
		if restart {
			check(t, f.hosts[0].Close())
			f.open(0)
			v.guest(0, "10.0.1.40", 1) // before the first Apply
		}
		a.want(next, udp(9), passed)
		next.want(a, tcp(80), passed)
		orphan.want(a, udp(9), DeniedEgress)
		f.apply(v)
		a.want(next, udp(10), passed)
		orphan.want(a, udp(10), DeniedEgress)
	}
	check(t, f.hosts[0].CloseTap(context.Background(), next.in.ID))
	f.state[0].Ports, f.state[0].Orphans, v.maps = named, nil, mappings
	f.apply(v)
	a.want(orphan, udp(11), passed)
	orphan.want(a, udp(11), passed)

	f.state[0].Ports, f.state[0].Orphans = nil, []ids.Interface{orphan.in.ID}
	f.apply(v)
	next = v.guest(0, "10.0.1.10", 1)
	f.apply(v)
	check(t, f.hosts[0].Close())
	check(t, orphan.tap.Close())
	for range orphan.frames { // until the device is gone
	}
	f.open(0) // takes nothing from the next
	a.want(next, udp(12), passed)
}

// TestDestroyLeavesNothing compares mounts and namespaces.
func TestDestroyLeavesNothing(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, openToAll)
	v.guest(0, "10.0.1.10", 1)
	f.apply(v)
	o := f.hosts[0].options
	check(t, f.hosts[0].Close())
	check(t, Destroy(o))
	check(t, Destroy(o)) // again
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	for _, path := range []string{o.PinDir, o.Dataplane, o.Service} {
		if strings.Contains(string(mounts), path) {
			t.Errorf("%s is still mounted", path)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s still exists", path)
		}
	}
	devices, err := f.bases[0].links.LinkList()
	check(t, err)
	for _, device := range devices {
		if !slices.Contains([]string{"lo", "under"}, device.Attrs().Name) {
			t.Errorf("device %s is left on the underlay", device.Attrs().Name)
		}
	}
	f.open(0) // and it can begin anew
}

// content is what a host's tables mean, whatever ids and pages stand for it.
func (h *testHost) content() map[string]string {
	out := map[string]string{}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	hosts := map[uint32]addr4{}
	for address, index := range h.mappings.underlays.content {
		hosts[index] = address
		out[fmt.Sprintf("host %v", address)] = ""
	}
	for key, ref := range h.mappings.directory.content {
		out[fmt.Sprintf("page %d/%x", key.VNI, key.Prefix)] = ""
		for i, word := range h.mappings.words[ref.Page*pageEntries : (ref.Page+1)*pageEntries] {
			if word != 0 {
				out[fmt.Sprintf("map %d/%x%02x", key.VNI, key.Prefix, i)] = fmt.Sprint(hosts[uint32(word)&0xfffff], word>>20&0xffff, generationOf(word) == ref.Generation)
			}
		}
	}
	sets := map[uint32]string{}
	for digest, number := range h.rules.numbers.content {
		sets[number] = fmt.Sprintf("%x", digest)
		out["set "+sets[number]] = ""
	}
	for key := range h.rules.policy.content {
		set := sets[key.Set]
		key.Set = 0
		out[fmt.Sprintf("rule %s %+v", set, key)] = ""
	}
	for key, class := range h.rules.classes.content {
		set := sets[key.Set]
		key.Set = 0
		out[fmt.Sprintf("ports %s %+v", set, key)] = fmt.Sprint(class)
	}
	for key, class := range h.rules.cidrs.content {
		set := sets[key.Set]
		key.Set = 0
		out[fmt.Sprintf("block %s %+v", set, key)] = fmt.Sprint(class)
	}
	for _, open := range h.ports {
		record := open.record
		ingress, egress := sets[record.Ingress], sets[record.Egress]
		record.Ingress, record.Egress = 0, 0
		out[fmt.Sprintf("port %d", open.slot)] = fmt.Sprintf("%s %s %+v", ingress, egress, record)
	}
	for key, slot := range h.locals.content {
		out[fmt.Sprintf("local %+v", key)] = fmt.Sprint(slot)
	}
	return out
}

func diff(a, b map[string]string) string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if other, found := b[key]; !found || other != a[key] {
			lines = append(lines, fmt.Sprintf("%s: %q, was %q (%t)", key, other, a[key], found))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if _, found := a[key]; !found {
			lines = append(lines, key+": new")
		}
	}
	return strings.Join(lines, "\n")
}
