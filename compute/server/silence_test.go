package server_test

import (
	"errors"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

// TestLaunchBeforeHostsReturn: a new server has heard no host yet. It counts on those that the one before had not lost,
// for as long as they may take to return, and a launch on one runs as soon as it is back.
func TestLaunchBeforeHostsReturn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	kept, lost := computetest.Info(0, computetest.Zone).ID, computetest.Info(1, computetest.Zone).ID
	w.Fleet.Disconnect(lost)
	w.until("the loss of a host is noted", func() bool { return w.silent(lost) })
	w.Stop()
	w.Fleet.Disconnect(kept)
	w.Start()

	out := w.launch(w.Request(3))
	for _, i := range out.Instances {
		if i.Host != kept {
			t.Errorf("%s is on %s, want %s, which was there when the server ended", i.ID, i.Host, kept)
		}
	}
	if h := w.left(kept); h.Connected || !h.Awaited {
		t.Errorf("a host that has not returned yet is shown as %+v", h)
	}
	if h := w.left(lost); h.Connected || h.Awaited {
		t.Errorf("a host that was lost before is shown as %+v", h)
	}
	if zones, err := w.Compute().Zones(w.ctx); err != nil || len(zones) != 1 || zones[0].Up != 1 {
		t.Errorf("zones %+v, error %v: want one host counted", zones, err)
	}
	w.Fleet.Connect(kept)
	w.await(compute.Running, idsOf(out.Instances)...)
	w.Fleet.Connect(lost)
	w.until("the return of a host is noted", func() bool { return !w.silent(lost) })
}

// TestHostThatDoesNotReturn: the new server ends to count on a host after a while, and the server after that never begins.
func TestHostThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := computetest.Info(0, computetest.Zone).ID
	w.Stop()
	w.Fleet.Disconnect(id)
	w.Start()
	w.until("the host is awaited", func() bool { return w.left(id).Awaited })
	w.clock.Advance(compute.HostAwaitedFor)
	w.noCapacity("when the host has not returned in time")
	w.until("its silence is noted", func() bool { return w.silent(id) })
	w.Stop()
	w.Start()
	w.noCapacity("of a server that never knew the host")
}

// TestStatusOfAwaitedHost: what runs on a host that is awaited is not called impaired.
func TestStatusOfAwaitedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	list := w.running(1)
	w.Stop()
	w.Fleet.Disconnect(computetest.Info(0, computetest.Zone).ID)
	w.Start()
	status := func() compute.Check {
		found, err := w.Compute().DescribeInstanceStatus(w.ctx, w.Account, list, nil)
		if err != nil {
			t.Fatal(err)
		}
		return found[0].System
	}
	if got := status(); got != compute.CheckInsufficientData {
		t.Errorf("system status %v, want insufficient data", got)
	}
	w.clock.Advance(compute.HostAwaitedFor)
	if got := status(); got != compute.CheckImpaired {
		t.Errorf("system status %v once the host did not return, want impaired", got)
	}
}

func (w *world) noCapacity(when string) {
	w.t.Helper()
	var full *compute.CapacityError
	if out, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1)); !errors.As(err, &full) {
		w.t.Errorf("a launch %s: %v, error %v; want no capacity", when, out.Instances, err)
	}
}

// silent is what a host's row says, for the next server.
func (w *world) silent(id ids.Host) bool {
	w.t.Helper()
	var h computerows.Host
	err := w.DB.View(w.ctx, func(r store.Reader) error {
		value, _, err := r.Get(w.ctx, store.Key("compute", "host", id).Base)
		if err == nil {
			h, err = row.Decode[computerows.Host](value.Bytes)
		}
		return err
	})
	if err != nil {
		w.t.Fatalf("read row of %s: %v", id, err)
	}
	return h.Silent
}
