package datapath

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/policy"
	"github.com/nimbrel/nimbrel/internal/ids"
	"pgregory.net/rapid"
)

var modelPorts = []uint16{22, 79, 80, 81, 443, 8000, 8005}

func drawRule(t *rapid.T) host.Rule {
	r := host.Rule{
		Protocol: rapid.SampledFrom([]uint8{1, 6, 17}).Draw(t, "protocol"),
		Any:      rapid.IntRange(0, 7).Draw(t, "any") == 0,
	}
	if r.FromPort = rapid.SampledFrom(modelPorts).Draw(t, "from"); r.Protocol == 1 {
		r.FromPort, r.ToPort = rapid.SampledFrom([]uint16{8, 0, host.PortAny}).Draw(t, "type"), host.PortAny
	} else {
		r.ToPort = max(r.FromPort, rapid.SampledFrom(modelPorts).Draw(t, "to"))
	}
	if rapid.Bool().Draw(t, "by group") {
		r.Group = groupID(rapid.IntRange(1, 3).Draw(t, "group"))
	} else {
		r.CIDR = rapid.SampledFrom([]string{"0.0.0.0/0", "10.0.0.0/16", "10.0.1.0/24", "10.0.1.10/32", "10.0.2.0/23", "10.0.1.16/28"}).Draw(t, "block")
	}
	return r
}

// TestRandomPolicies changes all rules and sends packets of every kind between all guests, and compares what happens with
// a direct reading of the rules.
func TestRandomPolicies(t *testing.T) {
	f := newFabric(t, legs[1])
	v := f.vpc(77)
	for g := 1; g <= 3; g++ {
		v.group(g)
	}
	guests := []*guest{
		v.guest(0, "10.0.1.10", 1), v.guest(0, "10.0.1.20", 1, 2), v.guest(0, "10.0.2.30", 3),
		v.guest(1, "10.0.1.40", 2), v.guest(1, "10.0.2.50", 2, 3), v.guest(1, "10.0.3.60"),
	}
	f.apply(v)
	port := uint16(10000) // of the sender: every packet begins a flow
	rapid.Check(t, func(r *rapid.T) {
		for g := 1; g <= 3; g++ {
			v.groups[g].Ingress = rapid.SliceOfN(rapid.Custom(drawRule), 0, 4).Draw(r, "ingress")
			v.groups[g].Egress = rapid.SliceOfN(rapid.Custom(drawRule), 0, 3).Draw(r, "egress")
		}
		f.apply(v)
		for range 10 {
			from, to := rapid.SampledFrom(guests).Draw(r, "from"), rapid.SampledFrom(guests).Draw(r, "to")
			if from == to {
				continue
			}
			port++
			p := packetSpec{proto: layers.IPProtocol(rapid.SampledFrom([]uint8{1, 6, 17}).Draw(r, "protocol")), sport: port, syn: true}
			judged := rapid.SampledFrom(modelPorts).Draw(r, "port")
			if p.dport = judged; p.proto == 1 {
				p.icmp, p.id, judged = layers.CreateICMPv4TypeCode(8, 0), port, 8<<8
			}
			want := v.expect(t, from, to, uint8(p.proto), judged)
			if got := from.try(to, p); got.reason != want {
				r.Fatalf("%v to %v, protocol %d port %d: %v, the rules say %v", from.addr, to.addr, p.proto, p.dport, got, outcome{nil, want})
			}
		}
	})
}

// expect reads the rules.
func (v *vpc) expect(t *testing.T, from, to *guest, protocol uint8, port uint16) Reason {
	members := map[uint16][]ids.SecurityGroup{}
	for _, identity := range v.lists {
		members[identity.Number] = identity.Groups
	}
	state := v.state()
	side := func(g *guest, direction policy.Direction, peer *guest) bool {
		groups, err := state.groupsOf(g.in.Groups)
		check(t, err)
		ok, err := policy.Allowed(groups, direction, members, policy.Peer{Identity: peer.in.Identity, Address: peer.addr}, protocol, port)
		check(t, err)
		return ok
	}
	if !side(from, policy.Egress, to) {
		return DeniedEgress
	}
	if !side(to, policy.Ingress, from) {
		return DeniedIngress
	}
	return passed
}

// drawState is any state over a few hosts, VPCs, groups and addresses.
func drawState(t *rapid.T, ports []Port) State {
	s := State{Ports: ports}
	fleet := rapid.IntRange(1, 5).Draw(t, "hosts")
	for n := range fleet {
		underlay := netip.AddrFrom4([4]byte{10, 99, 0, byte(n*rapid.IntRange(1, 2).Draw(t, "step") + 1)})
		s.Hosts = append(s.Hosts, host.FleetHost{ID: hostID(n), Underlay: underlay.String()})
	}
	for vni := uint32(77); vni < 79; vni++ {
		if rapid.IntRange(0, 4).Draw(t, "absent") == 0 {
			continue
		}
		v := VPCState{VNI: vni}
		for g := 1; g <= 3; g++ {
			if rapid.IntRange(0, 3).Draw(t, "no group") > 0 {
				v.Groups = append(v.Groups, host.Group{ID: groupID(g), Ingress: rapid.SliceOfN(rapid.Custom(drawRule), 0, 3).Draw(t, "ingress")})
			}
			v.Identities = append(v.Identities, host.Identity{Number: uint16(g), Groups: []ids.SecurityGroup{groupID(rapid.IntRange(1, 3).Draw(t, "member"))}})
		}
		taken := map[string]bool{}
		for n := range rapid.IntRange(0, 8).Draw(t, "mappings") {
			m := host.Mapping{
				Interface:     ids.Interface(fmt.Sprintf("eni-%017x", 100+n)),
				SubnetCIDR:    rapid.SampledFrom([]string{"10.0.0.0/20", "10.0.1.0/24", "10.1.0.0/16"}).Draw(t, "subnet"),
				AddressOffset: rapid.Uint64Range(0, 600).Draw(t, "offset") % 256,
				Host:          hostID(rapid.IntRange(0, fleet-1).Draw(t, "host")), Identity: uint16(rapid.IntRange(1, 3).Draw(t, "identity")),
			}
			address, err := m.Address()
			if err != nil || taken[address.String()] {
				continue // the store gives an address to one interface
			}
			taken[address.String()] = true
			v.Mappings = append(v.Mappings, m)
		}
		s.VPCs = append(s.VPCs, v)
	}
	return s
}

// TestApplyIsLevelTriggered: after any states, restarts between them or not, the last one alone decides what the tables
// hold, and applying it again changes nothing.
func TestApplyIsLevelTriggered(t *testing.T) {
	f := newFabric(t, legs[1])
	v := f.vpc(77)
	v.guest(0, "10.0.1.10", 1)
	v.guest(0, "10.0.1.20", 1, 2)
	f.vpc(78).guest(0, "10.0.1.10", 3)
	ports := f.state[0].Ports
	h := f.hosts[0]
	blank := State{Ports: ports}
	apply := func(s State) map[string]string {
		_ = h.Apply(context.Background(), s) // states may name groups that they lack: that is reported, and denied
		return h.content()
	}
	rapid.Check(t, func(r *rapid.T) {
		states := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) State { return drawState(r, ports) }), 1, 4).Draw(r, "states")
		last := states[len(states)-1]
		apply(blank)
		want := apply(last)
		for _, s := range states {
			apply(s)
			if rapid.IntRange(0, 9).Draw(r, "restart") == 0 {
				check(t, h.Close())
				d, err := Open(context.Background(), h.options)
				check(t, err)
				h.Datapath = d
			}
		}
		got := apply(last)
		if d := diff(want, got); d != "" {
			r.Fatalf("history shows:\n%s", d)
		}
		if d := diff(got, apply(last)); d != "" {
			r.Fatalf("applying again changes:\n%s", d)
		}
		shadows(t, h)
	})
}

// shadows compares what the process believes of its tables with the kernel's.
func shadows(t *testing.T, h *testHost) {
	t.Helper()
	before := h.content()
	h.mutex.Lock()
	defer h.mutex.Unlock()
	rules, err := openRuleSets(h.programs)
	check(t, err)
	locals, err := openTable[addressKey, uint32](h.programs.Locals, "locals")
	check(t, err)
	directory, err := openTable[pageKey, pageRef](h.programs.Directory, "directory")
	check(t, err)
	h.rules.numbers.content, h.rules.policy.content, h.rules.classes.content, h.rules.cidrs.content = rules.numbers.content, rules.policy.content, rules.classes.content, rules.cidrs.content
	h.locals.content, h.mappings.directory.content = locals.content, directory.content
	h.mutex.Unlock()
	after := h.content()
	h.mutex.Lock()
	if d := diff(before, after); d != "" {
		t.Fatalf("the kernel's tables differ:\n%s", d)
	}
}

// TestCrowdOfMappings fills pages of a large VPC and empties them again.
func TestCrowdOfMappings(t *testing.T) {
	f := newFabric(t, legs[1])
	v := f.vpc(77)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 20000 {
		v.maps = append(v.maps, host.Mapping{SubnetCIDR: "10.0.0.0/8", AddressOffset: uint64(n), Host: hostID(random.IntN(2)), Identity: uint16(1 + random.IntN(9))})
	}
	f.apply(v)
	h := f.hosts[0]
	if pages := len(h.mappings.directory.content); pages != 79 {
		t.Errorf("%d pages, want 79", pages)
	}
	v.maps = v.maps[:0]
	f.apply(v)
	if len(h.mappings.directory.content) != 0 || len(h.mappings.used) != 0 {
		t.Error("pages are left")
	}
	for i, word := range h.mappings.words {
		if word != 0 {
			t.Fatalf("word %d is %x", i, word)
		}
	}
	for n := range maxPages + 1 {
		v.maps = append(v.maps, host.Mapping{SubnetCIDR: "10.0.0.0/8", AddressOffset: uint64(n) << 8, Host: hostID(0), Identity: 1})
	}
	if err := h.Apply(context.Background(), f.desired(0, v)); err == nil {
		t.Error("more pages than there are were applied")
	}
}
