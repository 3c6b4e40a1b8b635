package server_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
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
