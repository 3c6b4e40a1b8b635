package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/imagecache"
	"github.com/nimbrel/nimbrel/host/internal/reconcile"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestLaunchAndTerminate follows one guest from the document to nothing left, and holds the order of what happens.
func TestLaunchAndTerminate(t *testing.T) {
	r := newRig(t, fake.Options{})
	var seq uint64
	i := instance(1, nil)
	r.give(func() { r.putInstance(i) }) // its interface is still on the way
	r.untilState(i.ID, host.VMPreparing)
	r.give(func() {
		r.putInterface(1)
		seq = r.views[dispatch.SectionID{Doc: own, Section: host.SectionInstances}].Seq
	})
	status := r.untilState(i.ID, host.VMRunning)
	if status.Generation != 1 || status.StartedMs == 0 || status.Reach != host.ReachOK {
		t.Errorf("status %+v", status)
	}
	r.until("applied", func() bool { return r.applied[own+"#instances"] == seq && r.applied[own+"#interfaces"] == 1 })
	r.give(func() {
		seq = r.put(own, host.SectionInstances, string(i.ID), nil)
		r.put(own, host.SectionInterfaces, string(interfaceID(1)), nil)
	})
	r.until("terminated", func() bool { return r.free(1, seq, 2) })
	if _, err := os.Stat(r.dir(i.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory is left: %v", err)
	}
	if got := r.history[string(i.ID)]; !slices.Equal(got[len(got)-2:], []string{"stopping", "gone"}) {
		t.Errorf("reported %v", got)
	}
	calls := r.network.calls
	open := slices.Index(calls, "open "+string(interfaceID(1)))
	if open < 1 || calls[open-1] != "close "+string(interfaceID(1)) || !slices.Contains(calls[:open], "apply 1") {
		t.Errorf("network was asked %v: want the state applied before the port is opened", calls)
	}
}

// TestAckIsPerItem holds that an address is not acknowledged as free while its guest lives, and that a guest that will
// not go down holds up nobody else: neither a neighbour's end nor one's start.
func TestAckIsPerItem(t *testing.T) {
	t.Parallel()
	r := newRig(t, fake.Options{})
	slow, quick := r.launch(1), r.launch(2)
	r.until("applied", func() bool { return r.free(1, 2, 2) && r.free(2, 2, 2) })
	r.world.IgnorePowerButton(r.dir(slow.ID))
	var asked time.Time
	r.give(func() {
		for n := 1; n <= 2; n++ {
			r.put(own, host.SectionInstances, string(instance(n, nil).ID), nil)
			r.put(own, host.SectionInterfaces, string(interfaceID(n)), nil)
		}
		asked = time.Now()
	})
	r.until("the neighbour is free", func() bool { return r.free(2, 4, 4) })
	if waited := time.Since(asked); waited > reconcile.TerminatePatience {
		t.Errorf("the neighbour %s was held for %v", quick.ID, waited)
	}
	for n, once := 3, true; ; time.Sleep(10 * time.Millisecond) { // samples two things that no one event joins
		r.mu.Lock()
		free, f := r.free(1, 4, 4), r.failed[host.SectionInstances][string(slow.ID)]
		r.mu.Unlock()
		_, err := r.world.Boot(r.dir(slow.ID))
		if free && err == nil {
			t.Fatal("the guest was acknowledged as gone while it ran")
		}
		if free {
			return // killed after its patience, then acknowledged
		}
		if !f.Retryable || f.Reason != inProgress {
			t.Fatalf("the guest on its way down is told as %+v", f)
		}
		if once {
			once = false
			r.launch(n)
			r.until("the third is acknowledged", func() bool { return r.free(n, 5, 5) })
		}
	}
}

// TestTooManyUnapplied holds that an acknowledgement never leaves out an item that is not applied.
func TestTooManyUnapplied(t *testing.T) {
	d := newDesk(t)
	a := &agent{o: Options{ID: hostID}, link: d, workers: map[ids.Instance]*worker{}, acks: map[dispatch.SectionID]ack{}}
	for n := range dispatch.MaxFailures + 1 {
		i := instance(n, nil)
		d.putInstance(i)
		a.workers[i.ID] = &worker{agent: a, id: i.ID}
	}
	a.desired = decode(d, hostID, 1)
	a.acknowledge()
	if applied, said := d.applied[own+"#instances"]; said {
		t.Fatalf("acknowledged %d with %d failures", applied, len(d.failed[host.SectionInstances]))
	}
	one := a.workers[instance(7, nil).ID]
	one.settled, one.aim = true, a.desired.aim(one.id)
	a.acknowledge()
	if failed := d.failed[host.SectionInstances]; len(failed) != dispatch.MaxFailures || failed[string(one.id)].Key != "" {
		t.Errorf("%d failures, the settled one %+v", len(failed), failed[string(one.id)])
	}
}

func TestOrphansAreToldToTheNetwork(t *testing.T) {
	d := newDesk(t)
	d.views[dispatch.SectionID{Doc: own, Section: host.SectionInterfaces}] = client.View{
		Known: true, Seq: 2, Orphans: map[string]dispatch.Item{"eni-00000000000000002": {}, "eni-00000000000000001": {}},
	}
	got := decode(d, hostID, 1).network
	if want := []ids.Interface{"eni-00000000000000001", "eni-00000000000000002"}; !slices.Equal(got.Orphans, want) || len(got.Ports) != 0 {
		t.Errorf("orphans %v, ports %v; want orphans %v alone", got.Orphans, got.Ports, want)
	}
}

func TestStopAndStart(t *testing.T) {
	r := newRig(t, fake.Options{})
	i := r.launch(1)
	i.Power = host.PowerStop
	r.give(func() { r.putInstance(i) })
	if s := r.untilState(i.ID, host.VMStopped); s.Code != host.CodeUserShutdown || s.Generation != 1 {
		t.Errorf("stopped: %+v", s)
	}
	i.Power, i.Generation = host.PowerRun, 2
	r.give(func() { r.putInstance(i) })
	r.until("second generation", func() bool { s := r.actual[string(i.ID)]; return s.State == host.VMRunning && s.Generation == 2 })
}

func TestGuestEndsByItself(t *testing.T) {
	r := newRig(t, fake.Options{})
	a, b := r.launch(1), r.launch(2)
	r.world.PowerOff(r.dir(a.ID))
	if s := r.untilState(a.ID, host.VMStopped); s.Code != host.CodeGuestShutdown {
		t.Errorf("power-off by the guest: %+v", s)
	}
	r.world.Crash(r.dir(b.ID))
	if s := r.untilState(b.ID, host.VMFailed); s.Code != host.CodeInternal || s.ExitStatus != -9 {
		t.Errorf("crash: %+v", s)
	}
	r.give(func() { r.putInstance(a) }) // the same again changes nothing
	r.until("applied", func() bool { return r.applied[own+"#instances"] == 3 })
	if _, err := r.world.Boot(r.dir(a.ID)); err == nil {
		t.Error("a generation was started twice")
	}
}

func TestRebootOnce(t *testing.T) {
	r := newRig(t, fake.Options{})
	i := r.launch(1)
	before, _ := r.world.Boot(r.dir(i.ID))
	i.RebootID = "op-00000000000000001"
	r.give(func() { r.putInstance(i) })
	r.until("rebooted", func() bool {
		now, _ := r.world.Boot(r.dir(i.ID))
		return now != before && r.actual[string(i.ID)].RebootID == i.RebootID
	})
	once, _ := r.world.Boot(r.dir(i.ID))
	r.stop()
	r.change(func() { clear(r.applied) })
	r.boot()
	r.give(func() {})
	r.until("looked again", func() bool { return r.free(1, 2, 1) })
	if again, _ := r.world.Boot(r.dir(i.ID)); again != once {
		t.Error("rebooted again by a new agent")
	}
	r.world.Reset(r.dir(i.ID))
	r.until("reset by the guest", func() bool { return r.actual[string(i.ID)].Resets == 1 })
}

// TestAgentRestart holds that guests go on without an agent, and that the next one knows them before it speaks.
func TestAgentRestart(t *testing.T) {
	r := newRig(t, fake.Options{})
	running, crashed, stranger := r.launch(1), r.launch(2), r.launch(3)
	boot, _ := r.world.Boot(r.dir(running.ID))
	r.stop()
	r.world.Crash(r.dir(crashed.ID))
	if err := os.Remove(filepath.Join(r.dir(stranger.ID), recordFile)); err != nil {
		t.Fatal(err)
	}
	r.change(func() { r.ready = false; clear(r.actual) })
	r.boot()
	r.until("ready", func() bool { return r.ready })
	r.mu.Lock()
	if len(r.actual) != 3 || r.actual[string(running.ID)].State != host.VMRunning || r.actual[string(crashed.ID)].State != host.VMFailed {
		t.Errorf("reported as all there is: %+v", r.actual)
	}
	r.mu.Unlock()
	if now, err := r.world.Boot(r.dir(running.ID)); err != nil || now != boot {
		t.Errorf("guest was disturbed: %q, %v", now, err)
	}
	r.give(func() { r.put(own, host.SectionInstances, string(stranger.ID), nil) })
	if s := r.untilState(stranger.ID, host.VMQuarantined); s.Reason == "" {
		t.Errorf("quarantined without a reason: %+v", s)
	}
	if _, err := r.world.Boot(r.dir(stranger.ID)); err != nil {
		t.Error("a guest that no document named was ended")
	}
}

// TestNothingEndsBeforeTheDocument holds an agent whose documents were lost.
func TestNothingEndsBeforeTheDocument(t *testing.T) {
	r := newRig(t, fake.Options{})
	i := r.launch(1)
	r.stop()
	r.boot()
	r.views = map[dispatch.SectionID]client.View{}
	r.give(func() { r.put(host.DocFleet, host.SectionHosts, "x", nil) })
	r.until("acknowledged", func() bool { return r.applied[host.DocFleet+"#hosts"] == 1 })
	r.give(func() {
		r.views[dispatch.SectionID{Doc: own, Section: host.SectionInstances}] = client.View{
			Known: true, Seq: 9, Orphans: map[string]dispatch.Item{string(i.ID): {}},
		}
	})
	r.until("acknowledged again", func() bool { return r.applied[host.DocFleet+"#hosts"] == 1 })
	if _, err := r.world.Boot(r.dir(i.ID)); err != nil {
		t.Error("a guest was ended without a document that said so")
	}
}

func TestFailuresAreReported(t *testing.T) {
	t.Parallel()
	r := newRig(t, fake.Options{FailStart: func(s vm.Spec) error {
		if strings.HasSuffix(string(s.ID), "1") {
			return errors.New("no room")
		}
		return nil
	}})
	r.give(func() { r.putInterface(1); r.putInstance(instance(1, nil)) })
	bad := instance(2, func(i *host.Instance) { i.VCPUs = 0 })
	r.give(func() { r.putInterface(2); r.putInstance(bad) })
	if s := r.untilState(bad.ID, host.VMFailed); s.Code != host.CodeInvalid {
		t.Errorf("invalid: %+v", s)
	}
	third := r.launch(3) // held up by nobody
	if s := r.untilState(instance(1, nil).ID, host.VMFailed); s.Code != host.CodeInternal || !strings.Contains(s.Reason, "no room") {
		t.Errorf("failed start: %+v", s)
	}
	r.until("acknowledged with failures", func() bool {
		failed := r.failed[host.SectionInstances]
		for _, id := range []ids.Instance{bad.ID, "i-00000000000000001"} {
			if f := failed[string(id)]; f.Reason == "" || f.Retryable {
				return false
			}
		}
		return r.applied[own+"#instances"] == 3 && len(failed) == 2
	})
	if s := r.untilState(third.ID, host.VMRunning); s.Code != "" {
		t.Errorf("third: %+v", s)
	}
	if s := r.agent.stats(); s.Guests["running"] != 1 || s.Guests["failed"] != 2 || s.Guests["stopped"] != 0 || s.FailedStarts == 0 || s.FailedSteps != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestKeepsDisk(t *testing.T) {
	r := newRig(t, fake.Options{})
	i := instance(1, func(i *host.Instance) { i.DeleteRootOnTermination, i.RootVolume = false, "vol-00000000000000001" })
	r.give(func() { r.putInterface(1); r.putInstance(i) })
	r.untilState(i.ID, host.VMRunning)
	if err := os.WriteFile(vm.DiskPath(r.dir(i.ID)), []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.give(func() { r.put(own, host.SectionInstances, string(i.ID), nil) })
	r.until("gone", func() bool { return r.free(1, 2, 0) })
	if b, err := os.ReadFile(filepath.Join(r.state, volumesFolder, "vol-00000000000000001.qcow2")); err != nil || string(b) != "disk" {
		t.Errorf("kept disk: %q, %v", b, err)
	}
}

func TestStreams(t *testing.T) {
	r := newRig(t, fake.Options{})
	i := r.launch(1)
	read := func(serve func(context.Context, net.Conn, []byte) error, header []byte) (string, error) {
		ours, theirs := net.Pipe()
		failed := make(chan error, 1)
		go func() { err := serve(t.Context(), theirs, header); theirs.Close(); failed <- err }()
		var got []byte
		for b := make([]byte, 256); ; {
			n, err := ours.Read(b)
			got = append(got, b[:n]...)
			if err != nil {
				ours.Close()
				return string(got), <-failed
			}
		}
	}
	if got, err := read(r.agent.serveConsole, host.Encode(host.ConsoleRequest{Instance: i.ID})); err != nil || !strings.Contains(got, "simulated guest") {
		t.Errorf("console %q, %v", got, err)
	}
	if got, err := read(r.agent.serveConsole, host.Encode(host.ConsoleRequest{Instance: "i-00000000000000009"})); !errors.Is(err, errNoGuest) {
		t.Errorf("console of nobody: %q, %v", got, err)
	}
	if got, err := read(r.agent.serveConsole, host.Encode(host.ConsoleRequest{Instance: "../x"})); err == nil {
		t.Errorf("console of a path: %q", got)
	}
	if got, err := read(r.agent.serveDial, host.Encode(host.DialRequest{Instance: i.ID, Port: 22})); err != nil || got != "guest says hello" {
		t.Errorf("dial %q, %v", got, err)
	}
	if got, err := read(r.agent.serveDial, host.Encode(host.DialRequest{Instance: i.ID, Port: 22, Interface: "eni-00000000000000009"})); err == nil {
		t.Errorf("dial of another's interface: %q", got)
	}
}

func TestUserPool(t *testing.T) {
	p := newUserPool(1000, 2)
	p.take(1000)
	if uid, err := p.next(); uid != 1001 || err != nil {
		t.Errorf("next = %d, %v", uid, err)
	}
	if uid, err := p.next(); err == nil {
		t.Errorf("a third user: %d", uid)
	}
	p.give(1000)
	if uid, err := p.next(); uid != 1000 || err != nil {
		t.Errorf("next = %d, %v", uid, err)
	}
}

func TestOptionsValidate(t *testing.T) {
	good := Options{ID: hostID, StateDir: t.TempDir()}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"id":       func(o *Options) { o.ID = "host" },
		"state":    func(o *Options) { o.StateDir = "state" },
		"driver":   func(o *Options) { o.Driver = "xen" },
		"identity": func(o *Options) { o.ServerAddrs = []string{"127.0.0.1:1"} },
	} {
		o := good
		spoil(&o)
		if err := o.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := imagecache.Open(filepath.Join(t.TempDir(), "x"), nil); err != nil {
		t.Error(err)
	}
}
