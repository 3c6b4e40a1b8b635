package server_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// TestDrainRacesLaunch: a launch that chose its host before the drain, and commits after it, does not land there. With
// another host it goes there; with none it fails for want of room, and leaves nothing.
func TestDrainRacesLaunch(t *testing.T) {
	t.Parallel()
	for name, hosts := range map[string]int{"only host": 1, "another host": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			held, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			engine := &counting{Engine: storetest.NewMemory()}
			engine.before = func(c *store.Commit) error {
				if launches(c) {
					once.Do(func() {
						close(held)
						<-release
					})
				}
				return nil
			}
			w := newWorld(t, hosts, func(o *computetest.Options) { o.Engine = engine })
			drained := computetest.Info(0, computetest.Zone).ID
			type answer struct {
				out compute.Reservation
				err error
			}
			answers := make(chan answer, 1)
			go func() {
				out, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1))
				answers <- answer{out, err}
			}()
			<-held
			if err := w.Compute().DrainHost(w.ctx, drained, true); err != nil {
				t.Fatal(err)
			}
			close(release)
			got := <-answers
			var full *compute.CapacityError
			switch {
			case hosts == 1 && !errors.As(got.err, &full):
				t.Errorf("launched %v, error %v: want no capacity", got.out.Instances, got.err)
			case hosts == 2 && (got.err != nil || got.out.Instances[0].Host == drained):
				t.Errorf("launched %v, error %v: want it on the other host", got.out.Instances, got.err)
			}
			if w.left(drained).Instances != 0 {
				t.Error("the draining host holds a placement")
			}
		})
	}
}

// launches says whether a commit writes an operation record, as the commit of a launch does.
func launches(c *store.Commit) bool {
	found := false
	for _, o := range c.Ops {
		found = found || touches(&o, store.Prefix("op"))
	}
	return found
}

func touches(o *store.Op, prefix []byte) bool {
	if bytes.Contains(o.Key.Base, prefix) { // behind the tenant
		return true
	}
	for _, group := range o.Groups {
		for i := range group.Ops {
			if touches(&group.Ops[i], prefix) {
				return true
			}
		}
	}
	return false
}

// TestDrainedHostKeepsWhatItHas: what runs there runs on, and a stopped instance starts again.
func TestDrainedHostKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	if err := w.Compute().DrainHost(w.ctx, w.get(id).Host, true); err != nil {
		t.Fatal(err)
	}
	w.stop(id)
	w.await(compute.Stopped, id)
	w.start(id)
	w.await(compute.Running, id)
	var full *compute.CapacityError
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1)); !errors.As(err, &full) {
		t.Errorf("a new launch: %v, want no capacity", err)
	}
}
