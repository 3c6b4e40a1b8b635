package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/host/internal/imagecache"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/rpc"
)

const (
	// lookEvery is how often a worker looks without any event; a missed one is made good within it.
	lookEvery = 10 * time.Second
	// listenEvery is how often a fresh guest is listened for, until it is heard.
	listenEvery = time.Second
	// probeEvery is how often guests are asked for a sign of life.
	probeEvery = 10 * time.Second
	// networkRetry is the pause after a network state that could not be applied in full.
	networkRetry = 2 * time.Second
)

// link is what the agent uses of client.Client.
type link interface {
	ReportApplied(doc, section string, seq uint64, failures []dispatch.Failure)
	ReportActual(section, key string, payload []byte)
	DeleteActual(section, key string)
	ReadyActual(section string)
	OpenStream(ctx context.Context, name string, header []byte) (net.Conn, error)
}

// agent is a running host.
type agent struct {
	o      Options
	driver vm.Driver
	images *imagecache.Cache
	link   link
	starts chan struct{} // a place for each start at once
	users  *userPool
	table  *guest.Table // who is who, for the services; nil without a data path

	mu       sync.Mutex
	desired  *snapshot
	last     uint64 // number of the newest snapshot
	workers  map[ids.Instance]*worker
	network  uint64                        // number of the newest snapshot that the network was given
	marks    map[dispatch.SectionID]uint64 // acknowledged
	adopting int                           // workers that have not looked for the first time
	running  sync.WaitGroup
	ctx      context.Context
	changed  chan struct{} // capacity 1: the network's state is to be applied
}

// Run is the agent's life. It returns when ctx ends, leaving the guests as they are, or when it cannot begin.
func Run(ctx context.Context, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	o = o.withDefaults()
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	lock, err := vm.Lock(o.StateDir) // two agents would fight over one host's guests
	if err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	defer lock.Close()
	a, err := newAgent(o)
	if err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	found, err := a.driver.Probe(ctx)
	if err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	info := measure(o, found)
	o.Log.Info("host", "id", o.ID, "accelerator", found.Accelerator, "reason", found.Reason, "degraded", found.Degraded,
		"vcpus", info.VCPUs, "memoryMib", info.MemoryMiB, "diskGib", info.DiskGiB)
	c := a.newLink(info)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closeNetwork, err := a.openNetwork(ctx)
	if err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	defer closeNetwork()
	stop := a.start(ctx)
	err = c.Run(ctx)
	cancel()
	stop()
	return err
}

// newLink makes the host link that the agent lives by.
func (a *agent) newLink(info host.Info) *client.Client {
	c := client.New(client.Options{
		Target: host.DocHost(a.o.ID), Cell: a.o.Cell, Dir: filepath.Join(a.o.StateDir, documentFolder), BootID: info.BootID,
		Dial: a.o.dial(), Info: func() []byte { return host.Encode(info) }, Handler: a,
		Streams:        map[string]client.StreamHandler{host.StreamConsole: a.serveConsole, host.StreamDial: a.serveDial},
		ActualSections: []string{host.SectionInstances},
		Connected: func(ctx context.Context, conn *rpc.Conn) error {
			return a.o.Identity.Renew(ctx, conn, time.Now())
		},
		Log: a.o.Log,
	})
	a.link = c
	return c
}

func newAgent(o Options) (*agent, error) {
	if err := os.MkdirAll(filepath.Join(o.StateDir, guestsFolder), 0o700); err != nil {
		return nil, err
	}
	driver, err := newDriver(o)
	if err != nil {
		return nil, err
	}
	a := &agent{
		o: o, driver: driver, starts: make(chan struct{}, o.ParallelStarts), users: newUserPool(o.UIDBase, o.UIDCount),
		workers: map[ids.Instance]*worker{}, marks: map[dispatch.SectionID]uint64{}, changed: make(chan struct{}, 1),
	}
	if a.images, err = imagecache.Open(o.ImageDir, a.imageSource()); err != nil {
		return nil, err
	}
	return a, nil
}

// imageSource is where absent images come from; nil is nowhere.
func (a *agent) imageSource() imagecache.Fetch {
	if a.o.FetchImage != nil || len(a.o.ServerAddrs) == 0 {
		return a.o.FetchImage
	}
	open := func(ctx context.Context, name string, header []byte) (net.Conn, error) {
		return a.link.OpenStream(ctx, name, header) // there is a link by the time that a guest needs its image
	}
	return newFetcher(open, a.o.Log).fetch
}

func newDriver(o Options) (vm.Driver, error) {
	if o.Driver == DriverFake {
		return fake.NewWorld(fake.Options{StartDelay: o.FakeStartDelay}).Driver(), nil
	}
	return qemu.New(qemu.Options{StateDir: o.StateDir, UID: o.UIDBase, Log: o.Log})
}

// start adopts what is on disk and begins to work. stop waits for the workers to let go of their guests.
func (a *agent) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.ctx = ctx
	found := a.directories()
	a.mu.Lock()
	a.adopting = len(found)
	for _, id := range found {
		a.addWorker(id, true)
	}
	ready := a.adopting == 0
	a.mu.Unlock()
	if ready {
		a.link.ReadyActual(host.SectionInstances)
	}
	a.running.Go(func() { a.keepNetwork(ctx) })
	return func() {
		cancel()
		a.running.Wait()
	}
}

// directories are the guests on disk. What a cut-short removal left is removed now.
func (a *agent) directories() []ids.Instance {
	folder := filepath.Join(a.o.StateDir, guestsFolder)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.o.Log.Error("guests are not read", "err", err)
	}
	var found []ids.Instance
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".removing-") {
			if err := os.RemoveAll(filepath.Join(folder, entry.Name())); err != nil {
				a.o.Log.Warn("rest of a removed guest stays", "err", err)
			}
			continue
		}
		id, err := ids.Parse[ids.Instance](entry.Name())
		if err != nil {
			a.o.Log.Warn("not a guest's directory", "name", entry.Name())
			continue
		}
		found = append(found, id)
	}
	return found
}

// Desired implements client.Handler.
func (a *agent) Desired(d client.Desired) { a.take(d) }

// take makes a newer desired state current and wakes everybody.
func (a *agent) take(d documents) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	s := decode(d, a.o.ID, a.last)
	a.desired = s
	a.showGuests(s)
	for id := range s.instances {
		if a.workers[id] == nil {
			a.addWorker(id, false)
		}
	}
	for _, w := range a.workers {
		w.look()
	}
	notify(a.changed)
}

// addWorker begins a worker. The caller holds a.mu.
func (a *agent) addWorker(id ids.Instance, adopting bool) {
	w := &worker{
		agent: a, id: id, dir: filepath.Join(a.o.StateDir, guestsFolder, string(id)), wake: make(chan struct{}, 1),
		log: a.o.Log.With("instance", id), adopting: adopting,
	}
	if a.desired != nil && !adopting {
		w.settled = a.desired.number - 1
	}
	a.workers[id] = w
	a.running.Go(func() { w.run(a.ctx) })
}

// current is the newest desired state, or nil before the first.
func (a *agent) current() (s *snapshot, networked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.desired, a.desired != nil && (a.o.Network == nil || a.network >= a.desired.number)
}

// keepNetwork gives the data path each newer state. What it could not do is tried again: the data path fails closed, so
// guests are not held up by it.
func (a *agent) keepNetwork(ctx context.Context) {
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	var retry <-chan time.Time
	for {
		select {
		case <-a.changed:
			retry = a.applyNetwork(ctx)
		case <-retry:
			retry = a.applyNetwork(ctx)
		case <-probe.C:
			if a.o.Network != nil {
				if err := a.o.Network.Probe(); err != nil {
					a.o.Log.Warn("guests are not probed", "err", err)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

func (a *agent) applyNetwork(ctx context.Context) (retry <-chan time.Time) {
	a.mu.Lock()
	s := a.desired
	a.mu.Unlock()
	if s == nil {
		return nil
	}
	if a.o.Network != nil {
		if err := a.o.Network.Apply(ctx, s.network); err != nil {
			a.o.Log.Error("network is not applied in full", "err", err)
			retry = time.After(networkRetry)
		}
	}
	a.mu.Lock()
	a.network = max(a.network, s.number)
	for _, w := range a.workers {
		w.look()
	}
	a.mu.Unlock()
	a.acknowledge()
	return retry
}

// acknowledge reports what is applied. The host's own sections wait for every worker: an address may be given to another
// guest after this, so its last guest must be gone.
func (a *agent) acknowledge() {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.desired
	if s == nil || a.o.Network != nil && a.network < s.number {
		return
	}
	own := dispatch.SectionID{Doc: host.DocHost(a.o.ID), Section: host.SectionInstances}
	failures := maps.Clone(s.failures)
	settled := true
	for id, w := range a.workers {
		if w.settled < s.number {
			settled = false
		}
		if w.failure != "" {
			rev := s.seqs[own]
			if item, found := s.instances[id]; found {
				rev = item.rev
			}
			failed := dispatch.Failure{Key: string(id), Rev: rev, Reason: w.failure}
			failures[host.SectionInstances] = append(slices.Clone(failures[host.SectionInstances]), failed)
		}
	}
	for id, seq := range s.seqs {
		mine := id.Doc == own.Doc
		if mine && !settled || a.marks[id] == s.number {
			continue
		}
		a.marks[id] = s.number
		var failed []dispatch.Failure
		if mine {
			failed = failures[id.Section]
		}
		a.link.ReportApplied(id.Doc, id.Section, seq, failed)
	}
}

// looked notes that a worker knows what its directory holds.
func (a *agent) looked(w *worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !w.adopting {
		return
	}
	w.adopting = false
	if a.adopting--; a.adopting == 0 {
		a.link.ReadyActual(host.SectionInstances)
	}
}

// finish ends a worker that has nothing left to hold, unless it is wanted again meanwhile.
func (a *agent) finish(w *worker, s *snapshot) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.desired != s {
		return false
	}
	delete(a.workers, w.id)
	return true
}

// worker finds the worker of a guest.
func (a *agent) worker(id ids.Instance) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[id]
}

// notify leaves one token.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
