package netconf

import (
	"errors"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// answer is an acknowledgement with the options that a lease must have, and more.
func answer(t testing.TB, more ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(169, 254, 169, 254))))
	if err != nil {
		t.Fatal(err)
	}
	m.OpCode = dhcpv4.OpcodeBootReply
	for _, option := range more {
		m.UpdateOption(option)
	}
	return m
}

func raw(code dhcpv4.OptionCode, data ...byte) dhcpv4.Option { return dhcpv4.OptGeneric(code, data) }

func TestParseLease(t *testing.T) {
	addr := netip.MustParseAddr
	router := raw(dhcpv4.OptionRouter, 10, 0, 0, 1, 10, 0, 0, 2)
	byRouter := []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: addr("10.0.0.1")}}
	for name, c := range map[string]struct {
		options []dhcpv4.Option
		want    func(*Lease)
	}{
		"least":       {nil, func(*Lease) {}},
		"router":      {[]dhcpv4.Option{router}, func(l *Lease) { l.Routes = byRouter }},
		"mtu":         {[]dhcpv4.Option{raw(dhcpv4.OptionInterfaceMTU, 0x05, 0xaa)}, func(l *Lease) { l.MTU = 1450 }},
		"mtu low":     {[]dhcpv4.Option{raw(dhcpv4.OptionInterfaceMTU, 0, 68)}, func(*Lease) {}},
		"mtu high":    {[]dhcpv4.Option{raw(dhcpv4.OptionInterfaceMTU, 0xff, 0xff)}, func(*Lease) {}},
		"mtu short":   {[]dhcpv4.Option{raw(dhcpv4.OptionInterfaceMTU, 9)}, func(*Lease) {}},
		"dns and ntp": {[]dhcpv4.Option{raw(dhcpv4.OptionDomainNameServer, 10, 0, 0, 2, 9), raw(dhcpv4.OptionNTPServers, 169, 254, 169, 123)}, func(l *Lease) { l.DNS, l.NTP = []netip.Addr{addr("10.0.0.2")}, []netip.Addr{addr("169.254.169.123")} }},
		"names":       {[]dhcpv4.Option{raw(dhcpv4.OptionHostName, []byte("ip-10-0-0-5\x00")...), raw(dhcpv4.OptionDomainName, []byte("nimbrel.internal")...)}, func(l *Lease) { l.Hostname, l.Domain = "ip-10-0-0-5", "nimbrel.internal" }},
		"bad name":    {[]dhcpv4.Option{raw(dhcpv4.OptionHostName, []byte("x\nroot")...)}, func(*Lease) {}},
		"classless replaces router": {[]dhcpv4.Option{router, raw(dhcpv4.OptionClasslessStaticRoute, 32, 169, 254, 169, 254, 0, 0, 0, 0, 0, 10, 0, 0, 9, 12, 172, 31, 10, 0, 0, 3)},
			func(l *Lease) {
				l.Routes = []Route{{Dst: netip.MustParsePrefix("169.254.169.254/32")}, {Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: addr("10.0.0.9")}, {Dst: netip.MustParsePrefix("172.16.0.0/12"), Via: addr("10.0.0.3")}}
			}},
		"classless cut short": {[]dhcpv4.Option{raw(dhcpv4.OptionClasslessStaticRoute, 0, 10, 0, 0, 9, 33, 1, 2, 3, 4)}, func(l *Lease) {
			l.Routes = []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: addr("10.0.0.9")}}
		}},
		"times":          {[]dhcpv4.Option{raw(dhcpv4.OptionIPAddressLeaseTime, 0, 0, 0, 100), raw(dhcpv4.OptionRenewTimeValue, 0, 0, 0, 30), raw(dhcpv4.OptionRebindingTimeValue, 0, 0, 0, 60)}, func(l *Lease) { l.Renew, l.Rebind, l.Expire = 30*time.Second, time.Minute, 100*time.Second }},
		"times nonsense": {[]dhcpv4.Option{raw(dhcpv4.OptionIPAddressLeaseTime, 0, 0, 0, 80), raw(dhcpv4.OptionRenewTimeValue, 0, 0, 1, 0), raw(dhcpv4.OptionRebindingTimeValue, 0, 0, 2, 0)}, func(l *Lease) { l.Renew, l.Rebind, l.Expire = 40*time.Second, 70*time.Second, 80*time.Second }},
		"no time at all": {[]dhcpv4.Option{raw(dhcpv4.OptionIPAddressLeaseTime, 0, 0, 0, 0)}, func(l *Lease) { l.Renew, l.Rebind, l.Expire = 5*time.Second, 8750*time.Millisecond, 10*time.Second }},
	} {
		want := Lease{Addr: netip.MustParsePrefix("10.0.0.5/24"), Server: addr("169.254.169.254"), Renew: 30 * time.Minute, Rebind: time.Hour * 7 / 8, Expire: time.Hour}
		c.want(&want)
		got, err := ParseLease(answer(t, c.options...))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", name, got, err, want)
		}
	}
}

func TestParseLeaseRefuses(t *testing.T) {
	for name, damage := range map[string]func(*dhcpv4.DHCPv4){
		"no address":    func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero },
		"multicast":     func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(224, 0, 0, 1) },
		"no mask":       func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionSubnetMask) },
		"mask of holes": func(m *dhcpv4.DHCPv4) { m.UpdateOption(raw(dhcpv4.OptionSubnetMask, 255, 0, 255, 0)) },
		"mask of zero":  func(m *dhcpv4.DHCPv4) { m.UpdateOption(raw(dhcpv4.OptionSubnetMask, 0, 0, 0, 0)) },
		"no server":     func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionServerIdentifier) },
	} {
		m := answer(t)
		damage(m)
		if l, err := ParseLease(m); !errors.Is(err, errNoLease) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	l := Lease{Domain: "a.b", DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2"), {}, {}, {}}}
	if got := l.ResolvConf(); !strings.HasPrefix(got, "search a.b\nnameserver 10.0.0.2\n") || strings.Count(got, "nameserver") != 3 {
		t.Errorf("got %q", got)
	}
}

func FuzzParseLease(f *testing.F) {
	f.Add(answer(f, raw(dhcpv4.OptionClasslessStaticRoute, 32, 169, 254, 169, 254, 0, 0, 0, 0)).ToBytes())
	f.Add(answer(f, raw(dhcpv4.OptionRouter, 10, 0, 0, 1), raw(dhcpv4.OptionInterfaceMTU, 5, 220)).ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		l, err := ParseLease(m)
		if err != nil {
			return
		}
		if !l.Addr.IsValid() || l.Renew <= 0 || l.Renew > l.Rebind || l.Rebind > l.Expire || l.Expire > maxLeaseTime || len(l.Routes) > maxRoutes ||
			(l.MTU != 0 && l.MTU < minMTU) || (l.Hostname != "" && !ValidName(l.Hostname)) {
			t.Errorf("lease out of bounds: %+v", l)
		}
	})
}
