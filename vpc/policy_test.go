package vpc

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func cidr(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestCanonical(t *testing.T) {
	for name, test := range map[string]struct{ in, want RuleSpec }{
		"masked":           {RuleSpec{Protocol: TCP, FromPort: 1, ToPort: 2, CIDR: cidr("10.1.2.3/8")}, RuleSpec{Protocol: TCP, FromPort: 1, ToPort: 2, CIDR: cidr("10.0.0.0/8")}},
		"all ports":        {RuleSpec{Protocol: UDP, FromPort: -1, ToPort: -1, Peer: "sg-1"}, RuleSpec{Protocol: UDP, FromPort: 0, ToPort: 65535, Peer: "sg-1"}},
		"all protocols":    {RuleSpec{Protocol: AllProtocols, FromPort: 22, ToPort: 22, Peer: "sg-1"}, RuleSpec{Protocol: AllProtocols, FromPort: -1, ToPort: -1, Peer: "sg-1"}},
		"without ports":    {RuleSpec{Protocol: 50, FromPort: 22, ToPort: 22, Peer: "sg-1"}, RuleSpec{Protocol: 50, FromPort: -1, ToPort: -1, Peer: "sg-1"}},
		"ICMP type":        {RuleSpec{Protocol: ICMP, FromPort: 8, ToPort: -1, Peer: "sg-1"}, RuleSpec{Protocol: ICMP, FromPort: 8, ToPort: -1, Peer: "sg-1"}},
		"ICMP all":         {RuleSpec{Protocol: ICMP, FromPort: -1, ToPort: -1, Peer: "sg-1"}, RuleSpec{Protocol: ICMP, FromPort: -1, ToPort: -1, Peer: "sg-1"}},
		"ICMP type, code":  {RuleSpec{Protocol: ICMP, FromPort: 3, ToPort: 4, Peer: "sg-1"}, RuleSpec{Protocol: ICMP, FromPort: 3, ToPort: 4, Peer: "sg-1"}},
		"with description": {RuleSpec{Protocol: 50, Peer: "sg-1", Description: "d"}, RuleSpec{Protocol: 50, FromPort: -1, ToPort: -1, Peer: "sg-1", Description: "d"}},
	} {
		if got, err := test.in.Canonical(); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestCanonicalRefuses(t *testing.T) {
	all := cidr("0.0.0.0/0")
	for name, in := range map[string]RuleSpec{
		"no source":        {Protocol: TCP},
		"two sources":      {Protocol: TCP, CIDR: all, Peer: "sg-1"},
		"IPv6":             {Protocol: TCP, CIDR: cidr("::/0")},
		"reversed":         {Protocol: TCP, FromPort: 2, ToPort: 1, CIDR: all},
		"negative":         {Protocol: TCP, FromPort: -2, ToPort: 1, CIDR: all},
		"half any":         {Protocol: TCP, FromPort: -1, ToPort: 1, CIDR: all},
		"too high":         {Protocol: UDP, FromPort: 1, ToPort: 65536, CIDR: all},
		"code alone":       {Protocol: ICMP, FromPort: -1, ToPort: 1, CIDR: all},
		"type too high":    {Protocol: ICMP, FromPort: 256, ToPort: -1, CIDR: all},
		"protocol 256":     {Protocol: 256, CIDR: all},
		"protocol -2":      {Protocol: -2, CIDR: all},
		"long description": {Protocol: TCP, CIDR: all, Description: strings.Repeat("x", MaxDescriptionBytes+1)},
	} {
		_, err := in.Canonical()
		var e *PermissionError
		if !errors.As(err, &e) || e.Problem != ProblemMalformed || e.Reason == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCanonicalIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := RuleSpec{
			Protocol: Protocol(rapid.Int16().Draw(t, "protocol")),
			FromPort: rapid.IntRange(-2, 70000).Draw(t, "from"), ToPort: rapid.IntRange(-2, 70000).Draw(t, "to"),
		}
		b := rapid.Uint32().Draw(t, "address")
		in.CIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(b >> 24), byte(b >> 16), byte(b >> 8), byte(b)}), rapid.IntRange(0, 32).Draw(t, "bits"))
		once, err := in.Canonical()
		if err != nil {
			t.Skip(err)
		}
		if twice, err := once.Canonical(); err != nil || twice != once {
			t.Fatalf("%+v became %+v, then %+v, %v", in, once, twice, err)
		}
	})
}

func TestProtocolNames(t *testing.T) {
	for in, want := range map[string]Protocol{"tcp": TCP, "TCP": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPv6, "58": ICMPv6, "-1": AllProtocols, "all": AllProtocols, "50": 50, "0": 0, "255": 255} {
		if got, err := ParseProtocol(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "256", "-2", "sctpx", "6.0", "99999999999"} {
		if got, err := ParseProtocol(in); err == nil {
			t.Errorf("%q was read as %v", in, got)
		}
	}
}

func FuzzParseProtocol(f *testing.F) {
	for _, s := range []string{"tcp", "-1", "58", "256", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseProtocol(s)
		if err != nil {
			return
		}
		if again, err := ParseProtocol(p.String()); err != nil || again != p {
			t.Fatalf("%q is %d, whose name %q is %d (%v)", s, p, p.String(), again, err)
		}
	})
}

func TestMACString(t *testing.T) {
	if got := (MAC{0x02, 0xab, 0, 0x0f, 0xff, 0x10}).String(); got != "02:ab:00:0f:ff:10" {
		t.Error(got)
	}
}
