package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/svc/obs/obstest"
)

const hostID = ids.Host("h-00000000000000001")

var own = host.DocHost(hostID)

// desk is the other side of an agent: it gives it documents and keeps what it says.
type desk struct {
	t *testing.T

	mu      sync.Mutex
	changed chan struct{} // closed at each change
	views   map[dispatch.SectionID]client.View
	actual  map[string]host.InstanceStatus
	history map[string][]string
	applied map[string]uint64
	failed  map[string]map[string]dispatch.Failure // by section of the host's document
	ready   bool
}

func newDesk(t *testing.T) *desk {
	return &desk{
		t: t, changed: make(chan struct{}), views: map[dispatch.SectionID]client.View{}, actual: map[string]host.InstanceStatus{},
		history: map[string][]string{}, applied: map[string]uint64{}, failed: map[string]map[string]dispatch.Failure{},
	}
}

func (d *desk) change(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *desk) ReportApplied(doc, section string, seq uint64, failures []dispatch.Failure) {
	d.change(func() {
		d.applied[doc+"#"+section] = seq
		if doc != own {
			return
		}
		d.failed[section] = map[string]dispatch.Failure{}
		for _, f := range failures {
			d.failed[section][f.Key] = f
		}
	})
}

func (d *desk) ReportActual(section, key string, payload []byte) {
	status, err := host.Decode[host.InstanceStatus](payload)
	if err != nil || section != host.SectionInstances {
		d.t.Errorf("report %s %s: %v", section, key, err)
	}
	d.change(func() {
		d.actual[key] = status
		d.history[key] = append(d.history[key], status.State.String())
	})
}

func (d *desk) DeleteActual(_, key string) {
	d.change(func() { delete(d.actual, key); d.history[key] = append(d.history[key], "gone") })
}

func (d *desk) ReadyActual(string) { d.change(func() { d.ready = true }) }

// until waits for what the agent says.
func (d *desk) until(what string, holds func() bool) {
	d.t.Helper()
	limit := time.After(time.Minute)
	for {
		d.mu.Lock()
		ok, changed := holds(), d.changed
		d.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit:
			d.mu.Lock()
			defer d.mu.Unlock()
			d.t.Fatalf("%s: not seen; actual %+v, applied %v, failed %v", what, d.actual, d.applied, d.failed)
		}
	}
}

func (d *desk) untilState(id ids.Instance, state host.VMState) host.InstanceStatus {
	d.t.Helper()
	d.until(fmt.Sprintf("%s is %s", id, state), func() bool { return d.actual[string(id)].State == state })
	return d.actual[string(id)]
}

// Docs and Section make it the documents that an agent takes. They are called with mu held by give.
func (d *desk) Docs() []string {
	docs := map[string]bool{}
	for id := range d.views {
		docs[id.Doc] = true
	}
	var out []string
	for doc := range docs {
		out = append(out, doc)
	}
	return out
}

func (d *desk) Section(doc, section string) client.View {
	return d.views[dispatch.SectionID{Doc: doc, Section: section}]
}

// free says whether the last acknowledgements let an instance's key and its interface be given to others.
func (d *desk) free(n int, instances, interfaces uint64) bool {
	_, guest := d.failed[host.SectionInstances][string(instance(n, nil).ID)]
	_, port := d.failed[host.SectionInterfaces][string(interfaceID(n))]
	return !guest && !port && d.applied[own+"#instances"] >= instances && d.applied[own+"#interfaces"] >= interfaces
}

// put sets one item, or takes it away with nil, at the section's next sequence.
func (d *desk) put(doc, section, key string, payload []byte) uint64 {
	id := dispatch.SectionID{Doc: doc, Section: section}
	v := d.views[id]
	items := map[string]dispatch.Item{}
	for k, item := range v.Items {
		items[k] = item
	}
	v.Known, v.Seq, v.Items = true, v.Seq+1, items
	if delete(items, key); payload != nil {
		items[key] = dispatch.Item{Key: key, Rev: v.Seq, Payload: payload}
	}
	d.views[id] = v
	return v.Seq
}

// quietNetwork is a Network that makes pipes for taps and notes what it was asked, in order.
type quietNetwork struct {
	mu    sync.Mutex
	calls []string
	heard time.Time
	fail  error
}

func (n *quietNetwork) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, fmt.Sprintf(format, args...))
}

func (n *quietNetwork) Apply(_ context.Context, s NetworkState) error {
	n.note("apply %d", len(s.Ports))
	return nil
}

func (n *quietNetwork) OpenTap(_ context.Context, in host.Interface, _ bool) (*os.File, error) {
	n.note("open %s", in.ID)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return nil, n.fail
	}
	return os.Open(os.DevNull)
}

func (n *quietNetwork) CloseTap(_ context.Context, id ids.Interface) error {
	n.note("close %s", id)
	return nil
}

func (n *quietNetwork) LastHeard(ids.Interface) (time.Time, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.heard, nil
}
func (n *quietNetwork) Probe() error { return nil }
func (n *quietNetwork) MTU() int     { return 1450 }
func (n *quietNetwork) DialGuest(context.Context, ids.Interface, int) (net.Conn, error) {
	a, b := net.Pipe()
	go func() { fmt.Fprint(b, "guest says hello"); b.Close() }()
	return a, nil
}

// rig is an agent on fake guests, with its desk.
type rig struct {
	*desk
	world   *fake.World
	network *quietNetwork
	state   string
	agent   *agent
	stop    func()

	expected []string // errors that the agent may log
}

func newRig(t *testing.T, o fake.Options, expected ...string) *rig {
	r := &rig{expected: expected, desk: newDesk(t), world: fake.NewWorld(o), network: &quietNetwork{heard: time.Now().Add(time.Hour)}, state: t.TempDir()}
	r.boot()
	t.Cleanup(func() { r.stop() })
	return r
}

// boot starts an agent over the state directory, as after a crash of the one before.
func (r *rig) boot() {
	r.t.Helper()
	o := Options{ID: hostID, StateDir: r.state, Driver: DriverFake, Network: r.network, Log: obstest.Logger(r.desk.t, r.expected...)}.withDefaults()
	if err := o.Validate(); err != nil {
		r.t.Fatal(err)
	}
	a, err := newAgent(o)
	if err != nil {
		r.t.Fatal(err)
	}
	a.driver, a.link = r.world.Driver(), r.desk
	r.agent = a
	r.stop = a.start(r.t.Context())
}

// give changes the documents and shows them to the agent.
func (r *rig) give(change func()) {
	r.mu.Lock()
	change()
	frozen := &desk{views: map[dispatch.SectionID]client.View{}}
	for id, v := range r.views {
		frozen.views[id] = v
	}
	r.mu.Unlock()
	r.agent.take(frozen)
}

func instance(n int, change func(*host.Instance)) host.Instance {
	i := host.Instance{
		ID: ids.Instance(fmt.Sprintf("i-%017x", n)), Generation: 1, VCPUs: 1, MemoryMiB: 128, RootDiskGiB: 1, ImageBytes: 1 << 20,
		ImageSHA256: strings.Repeat("ab", 32), Interfaces: []ids.Interface{interfaceID(n)}, DeleteRootOnTermination: true,
	}
	if change != nil {
		change(&i)
	}
	return i
}

func interfaceID(n int) ids.Interface { return ids.Interface(fmt.Sprintf("eni-%017x", n)) }

func (d *desk) putInstance(i host.Instance) uint64 {
	return d.put(own, host.SectionInstances, string(i.ID), host.Encode(i))
}

func (r *rig) putInterface(n int) {
	in := host.Interface{
		ID: interfaceID(n), Instance: instance(n, nil).ID, VPC: "vpc-00000000000000001", VNI: 7, MAC: [6]byte{2, 0, 0, 0, 0, byte(n)},
		SubnetCIDR: "10.0.0.0/24", AddressOffset: uint64(3 + n),
	}
	r.put(own, host.SectionInterfaces, string(in.ID), host.Encode(in))
}

func (r *rig) launch(n int) host.Instance {
	r.t.Helper()
	i := instance(n, nil)
	r.give(func() { r.putInterface(n); r.putInstance(i) })
	r.untilState(i.ID, host.VMRunning)
	return i
}

func (r *rig) dir(id ids.Instance) string { return filepath.Join(r.state, guestsFolder, string(id)) }
