package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"pgregory.net/rapid"
)

func group(n int) ids.SecurityGroup { return ids.SecurityGroup(fmt.Sprintf("sg-%017x", n)) }

func members(identities []host.Identity) map[uint16][]ids.SecurityGroup {
	out := map[uint16][]ids.SecurityGroup{}
	for _, identity := range identities {
		out[identity.Number] = identity.Groups
	}
	return out
}

// The edges of these draws are few, so that rules overlap and packets hit them.
func drawPort(t *rapid.T) uint16 {
	return rapid.OneOf(rapid.SampledFrom([]uint16{0, 1, 22, 79, 80, 81, 443, 1023, 1024, 0x0800, 0x0801, 0x0300, 65534, 65535}), rapid.Uint16()).Draw(t, "port")
}

func drawRule(t *rapid.T) host.Rule {
	r := host.Rule{
		Protocol: rapid.SampledFrom([]uint8{ICMP, TCP, UDP, 50}).Draw(t, "protocol"),
		Any:      rapid.IntRange(0, 9).Draw(t, "any") == 0,
	}
	r.FromPort, r.ToPort = drawPort(t), drawPort(t)
	if r.Protocol != ICMP && r.FromPort > r.ToPort && r.FromPort != host.PortAny {
		r.FromPort, r.ToPort = r.ToPort, r.FromPort
	}
	if rapid.Bool().Draw(t, "by group") {
		r.Group = group(rapid.IntRange(1, 4).Draw(t, "group"))
	} else {
		r.CIDR = rapid.SampledFrom([]string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.1.0/24", "10.0.1.128/25", "10.0.1.5/32", "10.1.0.0/16", "10.0.1.7/8"}).Draw(t, "block")
	}
	return r
}

func drawGroups(t *rapid.T) []host.Group {
	out := make([]host.Group, rapid.IntRange(1, 3).Draw(t, "groups"))
	for i := range out {
		out[i] = host.Group{
			ID:      group(i + 1),
			Ingress: rapid.SliceOfN(rapid.Custom(drawRule), 0, 6).Draw(t, "ingress"),
			Egress:  rapid.SliceOfN(rapid.Custom(drawRule), 0, 3).Draw(t, "egress"),
		}
	}
	return out
}

func drawIdentities(t *rapid.T) []host.Identity {
	out := make([]host.Identity, rapid.IntRange(0, 4).Draw(t, "identities"))
	for i := range out {
		out[i] = host.Identity{Number: uint16(i + 1), Groups: rapid.SliceOfN(rapid.Map(rapid.IntRange(1, 4), group), 0, 3).Draw(t, "members")}
	}
	return out
}

func TestCompiledAgreesWithRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups, identities := drawGroups(t), drawIdentities(t)
		direction := Direction(rapid.IntRange(0, 1).Draw(t, "direction"))
		set, err := Compile(7, direction, groups, identities)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			peer := Peer{
				Identity: rapid.Uint16Range(0, 5).Draw(t, "identity"),
				Address:  netip.MustParseAddr(rapid.SampledFrom([]string{"10.0.1.5", "10.0.1.200", "10.0.1.7", "10.0.2.1", "10.1.0.1", "10.9.0.1", "8.8.8.8"}).Draw(t, "address")),
			}
			protocol := rapid.SampledFrom([]uint8{ICMP, TCP, UDP, 50, 47, 0}).Draw(t, "packet protocol")
			port := drawPort(t)
			want, err := Allowed(groups, direction, members(identities), peer, protocol, port)
			if err != nil {
				t.Fatal(err)
			}
			if got := set.Allows(peer, protocol, port); got != want {
				t.Fatalf("%v protocol %d port %d: compiled says %t, the rules say %t", peer, protocol, port, got, want)
			}
		}
	})
}

func TestRangesAreNeverExpanded(t *testing.T) {
	groups := []host.Group{{ID: group(1), Ingress: []host.Rule{
		{Protocol: TCP, FromPort: 1, ToPort: 65534, Group: group(1)},
		{Protocol: TCP, FromPort: 1024, ToPort: 49151, CIDR: "10.0.0.0/8"},
		{Any: true, Group: group(2)},
	}}}
	many := make([]host.Identity, 100)
	for i := range many {
		many[i] = host.Identity{Number: uint16(i + 1), Groups: []ids.SecurityGroup{group(1)}}
	}
	set, err := Compile(7, Ingress, groups, many)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Ports) > 60 || len(set.Entries) != 201 {
		t.Fatalf("%d port prefixes and %d entries: want at most 60, and 2 per identity and 1 for the block", len(set.Ports), len(set.Entries))
	}
}

func TestDigestNamesContent(t *testing.T) {
	ssh := host.Rule{ID: "sgr-1", Protocol: TCP, FromPort: 22, ToPort: 22, CIDR: "10.0.0.0/8"}
	web := host.Rule{ID: "sgr-2", Protocol: TCP, FromPort: 80, ToPort: 80, CIDR: "10.0.0.0/8"}
	compile := func(vni uint32, direction Direction, rules ...host.Rule) [16]byte {
		set, err := Compile(vni, direction, []host.Group{{ID: group(1), Ingress: rules, Egress: rules}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return set.Digest
	}
	base := compile(7, Ingress, ssh, web)
	renamed := ssh
	renamed.ID = "sgr-3"
	if compile(7, Ingress, web, renamed, ssh) != base {
		t.Error("order, repeats and ids of rules change the digest")
	}
	for name, other := range map[string][16]byte{
		"VPC": compile(8, Ingress, ssh, web), "direction": compile(7, Egress, ssh, web), "rules": compile(7, Ingress, ssh),
	} {
		if other == base {
			t.Errorf("another %s has the same digest", name)
		}
	}
}

func TestBadRulesAreRefused(t *testing.T) {
	for name, r := range map[string]host.Rule{
		"block":    {ID: "sgr-1", Protocol: TCP, CIDR: "10.0.0.0"},
		"IPv6":     {ID: "sgr-1", Protocol: TCP, CIDR: "fe80::/10"},
		"reversed": {ID: "sgr-1", Protocol: TCP, FromPort: 80, ToPort: 22, CIDR: "10.0.0.0/8"},
		"no peer":  {ID: "sgr-1", Any: true},
	} {
		if _, err := Compile(7, Ingress, []host.Group{{Ingress: []host.Rule{r}}}, nil); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
	var wide []host.Rule
	for i := range MaxRanges + 1 {
		wide = append(wide, host.Rule{Protocol: UDP, FromPort: uint16(i), ToPort: uint16(2*i + 1), CIDR: "10.0.0.0/8"})
	}
	if _, err := Compile(7, Ingress, []host.Group{{Ingress: wide}}, nil); !errors.Is(err, ErrTooComplex) {
		t.Errorf("too many ranges: %v", err)
	}
}
