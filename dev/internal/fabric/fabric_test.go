package fabric

import (
	"net/netip"
	"testing"
)

func TestPlanNames(t *testing.T) {
	p := Plan{Prefix: "nb", Underlay: netip.MustParsePrefix("198.18.77.0/24"), Hosts: 2}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := p.MachineAddress().String(); got != "198.18.77.1" {
		t.Errorf("machine address %s", got)
	}
	h := p.Host(2)
	if h.Namespace != "nbh2" || h.DataPlane != "nbh2d" || h.Address.String() != "198.18.77.12" {
		t.Errorf("host 2 = %+v", h)
	}
	if last := p.Host(MaxHosts); len(last.DataPlane) > 15 || !p.Underlay.Contains(last.Address) {
		t.Errorf("last host does not fit: %+v", last)
	}
}

func TestPlanRefuses(t *testing.T) {
	good := Plan{Prefix: "nb", Underlay: netip.MustParsePrefix("198.18.77.0/24"), Hosts: 2}
	for name, change := range map[string]func(*Plan){
		"long prefix":  func(p *Plan) { p.Prefix = "nimbrel" },
		"no prefix":    func(p *Plan) { p.Prefix = "" },
		"small":        func(p *Plan) { p.Underlay = netip.MustParsePrefix("198.18.77.0/28") },
		"ipv6":         func(p *Plan) { p.Underlay = netip.MustParsePrefix("fd00::/64") },
		"many hosts":   func(p *Plan) { p.Hosts = MaxHosts + 1 },
		"fewer than 0": func(p *Plan) { p.Hosts = -1 },
	} {
		bad := good
		change(&bad)
		if bad.Validate() == nil {
			t.Errorf("%s: accepted %+v", name, bad)
		}
	}
}
