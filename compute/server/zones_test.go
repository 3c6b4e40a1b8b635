package server_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// TestLaunchGoesToTheZoneWithRoom fills the zone that the cloud would choose: a launch that names neither zone nor subnet
// goes to the other one, and one that names the full zone is refused.
func TestLaunchGoesToTheZoneWithRoom(t *testing.T) {
	t.Parallel()
	const other = "us-nimbrel-1b"
	w := newWorld(t, 1, func(o *computetest.Options) { o.Zones = []string{computetest.Zone, other} })
	if _, err := w.Networks.EnsureDefault(w.ctx, w.Account); err != nil {
		t.Fatal(err)
	}
	w.resize(func(i *host.Info) { i.VCPUs = 1 }, 0)
	far := computetest.Info(7, other)
	far.VCPUs = 1
	w.Fleet.AddHost(far)
	w.until("host of the other zone is there", func() bool {
		hosts, err := w.Compute().Hosts(w.ctx)
		return err == nil && slices.ContainsFunc(hosts, func(h compute.Host) bool { return h.ID == far.ID && h.Connected })
	})

	anywhere := w.Request(1)
	anywhere.Subnet = ""
	zones := map[string]ids.Host{}
	for range 2 {
		i := w.launch(anywhere).Instances[0]
		if zones[i.Zone] != "" {
			t.Fatalf("the second instance went to %s like the first", i.Zone)
		}
		zones[i.Zone] = i.Host
	}
	if zones[other] != far.ID {
		t.Fatalf("instances are on %v, want one on %s", zones, far.ID)
	}
	for _, zone := range []string{"", computetest.Zone, other} {
		r := anywhere
		r.Zone = zone
		if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, new(*compute.CapacityError)) {
			t.Errorf("launch in zone %q of a full cloud: %v, want a capacity error", zone, err)
		}
	}
}

// TestAddressChoosesTheDefaultSubnet: a private address without a subnet goes to the default subnet that has it, whichever
// of them the cloud would have chosen.
func TestAddressChoosesTheDefaultSubnet(t *testing.T) {
	t.Parallel()
	const other = "us-nimbrel-1b"
	w := newWorld(t, 1, func(o *computetest.Options) { o.Zones = []string{computetest.Zone, other} })
	if _, err := w.Networks.EnsureDefault(w.ctx, w.Account); err != nil {
		t.Fatal(err)
	}
	w.Fleet.AddHost(computetest.Info(7, other))
	w.until("host of the other zone is there", func() bool {
		hosts, err := w.Compute().Hosts(w.ctx)
		return err == nil && len(hosts) == 2 && hosts[0].Connected && hosts[1].Connected
	})
	subnets, err := w.Networks.DescribeSubnets(w.ctx, w.Account, nil, func(s *vpc.Subnet) bool { return s.Default })
	if err != nil || len(subnets) != 2 {
		t.Fatalf("default subnets %v, %v", subnets, err)
	}
	for _, s := range subnets {
		r := w.Request(1)
		r.Subnet, r.PrivateIP = "", s.CIDR.Addr().Next().Next().Next().Next().Next()
		if i := w.launch(r).Instances[0]; i.Subnet != s.ID || i.PrivateIP != r.PrivateIP || i.Zone != s.Zone {
			t.Errorf("%s went to %s in %s as %s", r.PrivateIP, i.Subnet, i.Zone, i.PrivateIP)
		}
	}
	r := w.Request(1)
	r.Subnet, r.PrivateIP = "", netip.MustParseAddr("192.168.77.7")
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, new(*vpc.AddressError)) {
		t.Errorf("an address of no default subnet: %v", err)
	}
}
