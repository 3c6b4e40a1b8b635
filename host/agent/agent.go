package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	network  uint64                     // number of the newest snapshot that the network was given
	acks     map[dispatch.SectionID]ack // last said
	adopting int                        // workers that have not looked for the first time
	running  sync.WaitGroup
	ctx      context.Context
	changed  chan struct{} // capacity 1: the network's state is to be applied

	failed       failures
	fenced       uint64          // epoch that the documents must be complete under before a guest starts; 0: none
	starting     context.Context // of the starts under way; ended by a stand-down
	cancelStarts context.CancelFunc
}

// Run is the agent's life. It returns when ctx ends, leaving the guests as they are, or when it cannot begin.
func Run(ctx context.Context, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	o = o.withDefaults()
	if err := preflight(o, os.Geteuid(), tunDevice); err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("run agent %s: %w", o.ID, err)
	}
	lock, err := vm.Lock(o.StateDir) // two agents would fight over one host's guests
	if errors.Is(err, vm.ErrLocked) {
		return fmt.Errorf("run agent %s: another agent runs on this state directory: stop it first, or choose another --state-dir: %w", o.ID, err)
	}
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
	o.Log.Info("host", "host", o.ID, "accelerator", found.Accelerator, "reason", found.Reason, "degraded", found.Degraded,
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
	if o.Started != nil {
		o.Started(a.stats)
	}
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
		ActualSections: []string{host.SectionInstances}, StandDown: a.standDown,
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
	fenced, err := readFence(o.StateDir)
	if err != nil {
		return nil, err
	}
	a := &agent{
		fenced: fenced,
		o:      o, driver: driver, starts: make(chan struct{}, o.ParallelStarts), users: newUserPool(o.UIDBase, o.UIDCount),
		workers: map[ids.Instance]*worker{}, acks: map[dispatch.SectionID]ack{}, changed: make(chan struct{}, 1),
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
	return qemu.New(qemu.Options{StateDir: o.StateDir, UID: o.UIDBase, Log: o.Log, Reached: o.reached})
}

// start adopts what is on disk and begins to work. stop waits for the workers to let go of their guests.
func (a *agent) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.ctx = ctx
	a.renewStarts()
	found := a.directories()
	for id := range vm.FindMachines(a.o.UIDBase, a.o.UIDCount) {
		if !slices.Contains(found, id) { // its directory is gone, and its machine is not
			found = append(found, id)
		}
	}
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
	a.running.Go(func() { a.keepImages(ctx) })
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
			a.o.Log.Warn("not a guest's directory", "path", entry.Name())
			continue
		}
		found = append(found, id)
	}
	return found
}

// take makes a newer desired state current and wakes everybody.
func (a *agent) take(d documents) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	s := decode(d, a.o.ID, a.last)
	a.desired = s
	a.showGuests(s)
	for id, item := range s.instances {
		if a.workers[id] == nil {
			a.addWorker(id, false)
		}
		a.workers[id].mayHold(item.Interfaces)
	}
	for _, w := range a.workers {
		w.giveUpStart(s)
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
	a.workers[id] = w
	a.running.Go(func() { w.run(a.ctx) })
}

// renewStarts makes starts possible. The caller holds a.mu, or nothing runs yet.
func (a *agent) renewStarts() { a.starting, a.cancelStarts = context.WithCancel(a.ctx) }

// mayStart is the context of a start, which a stand-down ends, or errStoodDown.
func (a *agent) mayStart() (context.Context, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fenced != 0 {
		return nil, errStoodDown
	}
	return a.starting, nil
}

// current is the newest desired state, or nil before the first. ready says whether guests may be started from it: its
// network is programmed, and the host does not stand down.
func (a *agent) current() (s *snapshot, ready bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.desired, a.desired != nil && a.fenced == 0 && (a.o.Network == nil || a.network >= a.desired.number)
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
			a.failed.networks.Add(1)
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

// looked notes that a worker knows what its directory holds.
func (a *agent) looked(w *worker) {
	if a.adoptedAll(w) {
		a.link.ReadyActual(host.SectionInstances)
		a.acknowledge() // the ports that are held are known now
	}
}

// adoptedAll notes that a worker has looked, and says whether it was the last.
func (a *agent) adoptedAll(w *worker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !w.adopting {
		return false
	}
	w.adopting = false
	a.adopting--
	return a.adopting == 0
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

// notify leaves one token.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
