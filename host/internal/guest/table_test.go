package guest

import (
	"net/netip"
	"testing"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

func TestTable(t *testing.T) {
	const instance, vpc = ids.Instance("i-00000000000000001"), ids.VPC("vpc-00000000000000001")
	first := host.Interface{ID: "eni-00000000000000001", Instance: instance, VPC: vpc, SubnetCIDR: "10.0.0.0/24", AddressOffset: 5}
	second := host.Interface{ID: "eni-00000000000000002", Instance: instance, VPC: vpc, DeviceIndex: 1}
	source, known := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("10.0.0.5")
	table := NewTable(func(a netip.Addr) (host.Interface, bool) { return first, a == source }, 1550)
	if _, ok := table.Guest(source); ok {
		t.Fatal("an empty table knows a guest")
	}
	table.Set([]host.Instance{{ID: instance}}, []host.Interface{second, first}, map[ids.VPC][]host.Mapping{
		vpc: {{Instance: instance, SubnetCIDR: "10.0.0.0/24", AddressOffset: 5}, {Instance: "i-2", SubnetCIDR: "nonsense"}},
	})
	g, ok := table.Guest(source)
	if !ok || g.Instance.ID != instance || g.MTU != 1550 || len(g.Interfaces) != 2 || g.Interfaces[0].ID != first.ID {
		t.Errorf("guest %+v, %v", g, ok)
	}
	if _, ok := table.Guest(known); ok {
		t.Error("a stranger is a guest")
	}
	if m, ok := table.Mapped(vpc, known); !ok || m.Instance != instance {
		t.Errorf("mapping %+v, %v", m, ok)
	}
	if a, ok := table.Address(vpc, instance); !ok || a != known {
		t.Errorf("address %v, %v", a, ok)
	}
	if _, ok := table.Mapped("vpc-00000000000000002", known); ok {
		t.Error("another VPC has the mapping")
	}
	table.Set(nil, nil, nil)
	if _, ok := table.Guest(source); ok {
		t.Error("a guest that is gone is known")
	}
}
