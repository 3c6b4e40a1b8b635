// Package computetest exports fake hosts for tests and benchmarks of compute: agents in this process that read their
// desired documents from the store's rows and answer a dispatch.Observer, with no network between.
//
// A fake host does at once what it is told, as host/agent with the fake driver does: it runs, stops and removes
// instances, and acknowledges. Tests take hosts down, make boots fail, and shut guests down from inside.
//
// Start at New.
package computetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
)

// Fleet is a set of fake hosts on one store.
type Fleet struct {
	follower *follow.Follower

	mu       sync.Mutex
	observer dispatch.Observer
	hosts    map[ids.Host]*fakeHost
	dirty    map[ids.Host]bool
	signal   chan struct{}
}

// fakeHost is one host: what the store wants of it, and what it does. The fleet's mu guards all but busy.
type fakeHost struct {
	info    host.Info
	down    bool
	refuse  func(host.Instance) *host.InstanceStatus
	failing string                              // item that cannot be applied
	acts    int                                 // how often the host has acted
	desired map[string]map[string]dispatch.Item // by section and key, tombstones included
	seqs    map[string]uint64
	status  map[ids.Instance]host.InstanceStatus
	look    map[ids.Instance]bool // whose document or status changed since the host last acted
	busy    sync.Mutex            // calls to the observer about one host come one at a time
}

// New makes a fleet whose hosts answer to observer. Call Run, then AddHost.
func New(db *store.DB, observer dispatch.Observer) *Fleet {
	f := &Fleet{observer: observer, hosts: map[ids.Host]*fakeHost{}, dirty: map[ids.Host]bool{}, signal: make(chan struct{}, 1)}
	f.follower = follow.New(db, [][]byte{dispatchrows.Watched()}, f.apply)
	return f
}

// Info describes a fake host with plenty of room, numbered n, in a zone.
func Info(n int, zone string) host.Info {
	return host.Info{
		ID: ids.Host(fmt.Sprintf("h-%017x", n)), Name: fmt.Sprintf("fake-%d", n), Zone: zone, Underlay: fmt.Sprintf("192.0.2.%d", n%250+1),
		VCPUs: 64, MemoryMiB: 64 << 10, DiskGiB: 1 << 10, Accelerator: "fake", Simulated: true, AgentVersion: "test", BootID: "1",
	}
}

// Run works until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		f.follower.Run(ctx) //nolint:errcheck // ends with ctx
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.signal:
			var group sync.WaitGroup
			for _, id := range f.takeDirty() {
				group.Go(func() { f.act(id, false) })
			}
			group.Wait()
		}
	}
}

// AddHost makes a host join, or says again that it is there.
func (f *Fleet) AddHost(info host.Info) {
	f.mu.Lock()
	h := f.host(info.ID)
	h.info, h.down = info, false
	f.mu.Unlock()
	f.reconnect(info.ID)
}

// Observe makes all hosts answer to another observer, as after a restart of the server: they connect again.
func (f *Fleet) Observe(observer dispatch.Observer) {
	f.mu.Lock()
	f.observer = observer
	var up []ids.Host
	for id, h := range f.hosts {
		if h.info.ID != "" && !h.down {
			up = append(up, id)
		}
	}
	f.mu.Unlock()
	for _, id := range up {
		f.reconnect(id)
	}
}

// Disconnect cuts a host off: it goes on with what it was told, hears nothing, says nothing.
func (f *Fleet) Disconnect(id ids.Host) {
	f.mu.Lock()
	h := f.host(id)
	h.down = true
	observer := f.observer
	f.mu.Unlock()
	h.busy.Lock()
	defer h.busy.Unlock()
	observer.TargetDown(host.DocHost(id), time.Now())
}

// Connect ends Disconnect: the host takes its document as it is now, and says all it has to say.
func (f *Fleet) Connect(id ids.Host) {
	f.mu.Lock()
	f.host(id).down = false
	f.mu.Unlock()
	f.reconnect(id)
}

// Refuse makes a host answer some instances with a status of the test's instead of running them; nil ends it.
func (f *Fleet) Refuse(id ids.Host, with func(host.Instance) *host.InstanceStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.host(id)
	h.refuse = with
	h.lookAtAll()
	f.mark(id)
}

// Hang makes a host take new instances and never get them running.
func (f *Fleet) Hang(id ids.Host) {
	f.Refuse(id, func(i host.Instance) *host.InstanceStatus {
		return &host.InstanceStatus{ID: i.ID, Generation: i.Generation, State: host.VMPreparing}
	})
}

// Report makes a host say something of an instance, as when its guest shuts down.
func (f *Fleet) Report(id ids.Host, edit func(*host.InstanceStatus), instance ids.Instance) {
	f.mu.Lock()
	h := f.host(id)
	status := h.status[instance]
	edit(&status)
	h.status[instance] = status
	h.look[instance] = true
	f.mark(id)
	f.mu.Unlock()
}

// FailApply makes a host say of one item that it could not apply it, until called with "". An instance that cannot be
// removed runs on.
func (f *Fleet) FailApply(id ids.Host, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.host(id)
	h.failing = key
	h.lookAtAll()
	f.mark(id)
}

// Acts counts how often a host has done and said what there was.
func (f *Fleet) Acts(id ids.Host) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.host(id).acts
}

// Running lists what a host runs.
func (f *Fleet) Running(id ids.Host) []ids.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []ids.Instance
	for i, status := range f.host(id).status {
		if status.State == host.VMRunning {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}

// Instance is what a host was last told of an instance; false when it is to have none.
func (f *Fleet) Instance(id ids.Host, instance ids.Instance) (host.Instance, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	item, found := f.host(id).desired[host.SectionInstances][string(instance)]
	if !found || item.Deleted {
		return host.Instance{}, false
	}
	i, err := host.Decode[host.Instance](item.Payload)
	return i, err == nil
}

// host returns a host, making it if need be; mu is held.
func (f *Fleet) host(id ids.Host) *fakeHost {
	h := f.hosts[id]
	if h == nil {
		h = &fakeHost{desired: map[string]map[string]dispatch.Item{}, seqs: map[string]uint64{}, status: map[ids.Instance]host.InstanceStatus{}, look: map[ids.Instance]bool{}}
		f.hosts[id] = h
	}
	return h
}

// mark makes Run look at a host; mu is held.
func (f *Fleet) mark(id ids.Host) {
	f.dirty[id] = true
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

func (f *Fleet) takeDirty() []ids.Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]ids.Host, 0, len(f.dirty))
	for id := range f.dirty {
		out = append(out, id)
	}
	clear(f.dirty)
	return out
}

// apply takes the store's changes into the desired documents.
func (f *Fleet) apply(b follow.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range b.Changes {
		k, err := dispatchrows.ParseKey(c.Key)
		if err != nil || len(k.ID.Doc) <= len(host.DocHostPrefix()) || k.ID.Doc[:len(host.DocHostPrefix())] != host.DocHostPrefix() || c.Deleted {
			continue
		}
		id := ids.Host(k.ID.Doc[len(host.DocHostPrefix()):])
		h := f.host(id)
		switch k.Table {
		case dispatchrows.TableSeq:
			h.seqs[k.ID.Section] = uint64(c.Value.Int)
		case dispatchrows.TableItem:
			item, err := dispatchrows.DecodeItem(k.Item, c.Value)
			assert.That(err == nil, "item of %s: %v", id, err)
			if h.desired[k.ID.Section] == nil {
				h.desired[k.ID.Section] = map[string]dispatch.Item{}
			}
			h.desired[k.ID.Section][k.Item] = item.Item
			if k.ID.Section == host.SectionInstances {
				h.look[ids.Instance(k.Item)] = true
			}
		}
		f.mark(id)
	}
}

// reconnect begins a session: the host describes itself and reports everything.
func (f *Fleet) reconnect(id ids.Host) {
	f.mu.Lock()
	h, observer := f.host(id), f.observer
	info := h.info
	f.mu.Unlock()
	h.busy.Lock()
	observer.TargetUp(host.DocHost(id), host.Encode(info))
	h.busy.Unlock()
	f.act(id, true)
}

// act makes a host do what it is told, and say so. full makes it report everything.
func (f *Fleet) act(id ids.Host, full bool) {
	f.mu.Lock()
	h := f.host(id)
	f.mu.Unlock()
	h.busy.Lock()
	defer h.busy.Unlock()
	f.mu.Lock()
	if h.down || h.info.ID == "" {
		f.mu.Unlock()
		return
	}
	if full {
		h.lookAtAll()
	}
	upserts, deletes := h.converge()
	if full {
		deletes = nil
	}
	seqs := map[string]uint64{}
	for section, seq := range h.seqs {
		seqs[section] = seq
	}
	observer := f.observer
	var failures []dispatch.Failure
	if h.failing != "" {
		failures = []dispatch.Failure{{Key: h.failing, Reason: "the test says so"}}
	}
	f.mu.Unlock()
	observer.Actual(host.DocHost(id), host.SectionInstances, full, upserts, deletes)
	for section, seq := range seqs {
		observer.Applied(host.DocHost(id), section, seq, failures)
	}
	f.mu.Lock()
	h.acts++
	f.mu.Unlock()
}

func (h *fakeHost) lookAtAll() {
	for key := range h.desired[host.SectionInstances] {
		h.look[ids.Instance(key)] = true
	}
}

// converge makes the guests that are to be looked at what the document says, and returns what is to be reported; the
// fleet's mu is held.
func (h *fakeHost) converge() (upserts []dispatch.Item, gone []string) {
	for id := range h.look {
		item, found := h.desired[host.SectionInstances][string(id)]
		if string(id) == h.failing {
			continue
		}
		if !found || item.Deleted {
			delete(h.status, id)
			gone = append(gone, string(id))
			continue
		}
		want, err := host.Decode[host.Instance](item.Payload)
		assert.That(err == nil, "item of %s: %v", id, err)
		h.status[id] = h.next(want, h.status[id])
		upserts = append(upserts, dispatch.Item{Key: string(id), Payload: host.Encode(h.status[id])})
	}
	clear(h.look)
	return upserts, gone
}

// next is the status of a guest once the host has done what it is told.
func (h *fakeHost) next(want host.Instance, is host.InstanceStatus) host.InstanceStatus {
	if is.Generation < want.Generation { // a new start
		is = host.InstanceStatus{ID: want.ID, Generation: want.Generation, State: host.VMPreparing}
	}
	switch {
	case want.Power != host.PowerRun && is.State != host.VMStopped:
		is.State, is.Code = host.VMStopped, host.CodeUserShutdown
	case want.Power == host.PowerRun && is.State == host.VMPreparing && h.refuse != nil:
		if refused := h.refuse(want); refused != nil {
			return *refused
		}
		fallthrough
	case want.Power == host.PowerRun && is.State == host.VMPreparing:
		is.State, is.Reach = host.VMRunning, host.ReachOK
	}
	if is.State == host.VMRunning {
		is.RebootID = want.RebootID
	}
	return is
}
