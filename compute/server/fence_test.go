package server_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// epoch is how often a host was given up.
func (w *world) epoch(h ids.Host) int64 {
	w.t.Helper()
	var raised int64
	err := w.DB.View(w.ctx, func(r store.Reader) error {
		value, _, err := r.Get(w.ctx, store.Key("dispatch", "epoch", "host", string(h)).Base)
		raised = value.Int
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return raised
}

// TestFenceHostThatIsOff: on the operator's word, what was terminated on a host that is off is free at once, and nothing
// else of it is. The host gets nothing new; should it return after all, it ends what it still ran.
func TestFenceHostThatIsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, func(o *computetest.Options) { o.CIDR = "10.4.0.0/28" }) // 11 addresses
	all := w.running(8)
	off := hostID(0)
	if _, err := w.Compute().FenceHost(w.ctx, off, true); !errors.Is(err, compute.ErrHostHeard) {
		t.Fatalf("a host that is heard is taken to be off: %v", err)
	}
	w.Fleet.Disconnect(off)
	there := w.Fleet.Running(off)
	if len(there) < 2 || len(there) == len(all) {
		t.Fatalf("%d of %d run on the host: the test needs some on each", len(there), len(all))
	}
	kept, ended := there[0], there[1:]
	w.terminate(ended...)
	w.await(compute.ShuttingDown, ended...)
	if freed, err := w.Compute().FenceHost(w.ctx, off, false); err != nil || freed != 0 {
		t.Fatalf("fenced, freed %d, %v", freed, err)
	}
	w.await(compute.ShuttingDown, ended...) // nobody has said that it is off
	freed, err := w.Compute().FenceHost(w.ctx, off, true)
	if err != nil || freed != len(ended) {
		t.Fatalf("freed %d, %v; want %d", freed, err, len(ended))
	}
	w.await(compute.Terminated, ended...)
	if got := w.get(kept); got.State != compute.Running {
		t.Errorf("%s, which nobody terminated, is %s", kept, got.State)
	}
	if left := w.left(off); left.Instances != 1 || !left.Draining {
		t.Errorf("the host is %+v, want it draining with one instance", left)
	}
	if raised := w.epoch(off); raised != 2 {
		t.Errorf("the epoch was raised %d times, want 2", raised)
	}
	w.check()

	fill := w.launch(w.Request(11 - (len(all) - len(ended)))).Instances // every address
	if i := slices.IndexFunc(fill, func(i *compute.Instance) bool { return i.Host == off }); i >= 0 {
		t.Errorf("%s went to the fenced host", fill[i].ID)
	}
	if freed, err := w.Compute().FenceHost(w.ctx, off, true); err != nil || freed != 0 {
		t.Errorf("again: freed %d, %v", freed, err)
	}
	w.Fleet.Connect(off)
	w.until("the host has ended what is terminated", func() bool { return slices.Equal(w.Fleet.Running(off), []ids.Instance{kept}) })
	w.await(compute.Running, append(idsOf(fill), kept)...)
}

func TestFenceOfNoHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	for _, off := range []bool{false, true} {
		var missing *compute.NotFoundError
		if _, err := w.Compute().FenceHost(w.ctx, "h-none", off); !errors.As(err, &missing) || missing.Kind != "host" {
			t.Errorf("off %v: %v", off, err)
		}
	}
}
