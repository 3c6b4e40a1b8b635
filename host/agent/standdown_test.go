package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/reconcile"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
)

// TestStandDown gives a host up while one guest runs and another one is being started. The first goes on, the second is
// not started: not by this agent, not by the next one, and not by documents of an older epoch.
func TestStandDown(t *testing.T) {
	r := newRig(t, fake.Options{})
	running := r.launch(1)
	boot, _ := r.world.Boot(r.dir(running.ID))
	began := make(chan struct{}, 1)
	slow := fake.NewWorld(fake.Options{StartDelay: time.Hour, FailStart: func(vm.Spec) error { began <- struct{}{}; return nil }})
	r.stop()
	r.world, slow = slow, r.world
	r.boot()
	late := instance(2, nil)
	r.give(func() { r.putInterface(2); r.putInstance(late) })
	<-began
	r.agent.standDown(2) // comes back when the start has ended
	if _, err := r.agent.mayStart(); !errors.Is(err, errStoodDown) {
		t.Errorf("another start may begin: %v", err)
	}

	r.stop()
	r.world = slow // that starts at once
	r.boot()
	r.change(func() { clear(r.applied) })
	r.give(func() {})
	r.agent.confirm(1)
	r.until("the network is applied", func() bool { return r.applied[own+"#interfaces"] == 2 })
	s, ready := r.agent.current()
	r.agent.mu.Lock()
	w := r.agent.workers[late.ID]
	r.agent.mu.Unlock()
	if d := reconcile.Decide(w.want(s, ready), reconcile.Have{Named: true, Directory: true}, time.Now()); d.Step != reconcile.None || d.Settled {
		t.Errorf("decided %+v behind the fence", d)
	}
	if _, err := r.world.Boot(r.dir(late.ID)); err == nil {
		t.Error("started from the documents of an old epoch")
	}
	if now, err := r.world.Boot(r.dir(running.ID)); err != nil || now != boot {
		t.Errorf("the running guest was disturbed: %q, %v", now, err)
	}
	r.agent.confirm(2)
	r.untilState(late.ID, host.VMRunning)
	if _, err := os.Stat(filepath.Join(r.state, fenceFile)); !os.IsNotExist(err) {
		t.Errorf("fence stays: %v", err)
	}
	for _, state := range r.history[string(late.ID)] {
		if state == host.VMFailed.String() {
			t.Errorf("the stand-down counted as a failed start: %v", r.history[string(late.ID)])
		}
	}
}

// TestDamagedFence: a fence that cannot be read does not count as none.
func TestDamagedFence(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, fenceFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newAgent(Options{ID: hostID, StateDir: state, Driver: DriverFake}.withDefaults()); err == nil {
		t.Error("accepted")
	}
}
