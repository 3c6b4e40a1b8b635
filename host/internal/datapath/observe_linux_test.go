package datapath

import (
	"net/netip"
	"testing"

	"github.com/nimbrel/nimbrel/host"
)

// TestDropsNeverGoBack: what a port dropped still counts after it is closed and its slot is another's.
func TestDropsNeverGoBack(t *testing.T) {
	f := newFabric(t, legs[0])
	v := f.vpc(77)
	v.group(1, host.Rule{Any: true, CIDR: "0.0.0.0/0"})
	a, b := v.guest(0, "10.0.1.10", 1), v.guest(1, "10.0.1.20", 1)
	f.apply(v)
	spoofed := tcp(1)
	spoofed.src = netip.MustParseAddr("10.0.1.99")
	a.want(b, spoofed, SpoofIP)

	drops := func() uint64 {
		t.Helper()
		total, err := f.hosts[0].Drops()
		check(t, err)
		return total.Dropped(SpoofIP)
	}
	before := drops()
	if before == 0 {
		t.Fatal("the drop is not counted")
	}
	check(t, f.hosts[0].CloseTap(t.Context(), a.in.ID))
	if after := drops(); after != before {
		t.Errorf("%d drops before the port was closed, %d after", before, after)
	}
}
