package computetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/rootkey"
	accounts "github.com/nimbrel/nimbrel/account/server"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/server"
	"github.com/nimbrel/nimbrel/image/imagerows"
	images "github.com/nimbrel/nimbrel/image/server"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	vpcs "github.com/nimbrel/nimbrel/vpc/server"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// Region and Zone are where a world is.
const (
	Region = "us-nimbrel-1"
	Zone   = "us-nimbrel-1a"
)

// Clock is a clock that a test moves. It starts at the machine's time, since rows are also judged by that.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts a clock.
func NewClock() *Clock { return &Clock{now: time.Now().Truncate(time.Millisecond)} }

// Now implements env.Clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Options describe a world.
type Options struct {
	Engine store.Engine
	Clock  env.Clock // default: the machine's
	Hosts  int       // fake hosts in Zone
	Zones  []string  // of the default VPC; default only Zone
	Dir    string    // for image content
	CIDR   string    // of the subnet; default 10.0.0.0/16
	Log    *slog.Logger
	// Resume is what an earlier world made on the same store; nil makes it.
	Resume *Furniture
	// Between wraps the engine for each compute service that starts, to fail or count its commits; nil means not.
	Between func(store.Engine) store.Engine
}

// Furniture is what launches refer to.
type Furniture struct {
	Account ids.Account
	VPC     ids.VPC
	Subnet  ids.Subnet
	Group   ids.SecurityGroup
	Image   ids.Image
}

// World is a control plane without doors: accounts, images, compute and fake hosts on one store, with one account, VPC,
// subnet, security group and image.
type World struct {
	DB       *store.DB
	Env      env.Env
	Fleet    *Fleet
	Accounts *accounts.Service
	Images   *images.Service
	Networks *vpcs.Service
	Furniture

	options Options
	ctx     context.Context
	group   sync.WaitGroup
	compute *server.Service
	stop    context.CancelFunc // ends compute
	stopped chan struct{}
}

// Open makes a world on an empty store, or goes on with one. It works until ctx ends; Wait waits for that.
func Open(ctx context.Context, o Options) (*World, error) {
	w := &World{options: o, ctx: ctx, Env: env.Env{Clock: o.Clock, Random: rand.Reader}}
	if o.Clock == nil {
		w.Env.Clock = env.Real{}
	}
	if o.CIDR == "" {
		w.options.CIDR = "10.0.0.0/16"
	}
	if o.Zones == nil {
		w.options.Zones = []string{Zone}
	}
	w.DB = store.New(o.Engine, store.Options{Tenant: "test"})
	key, err := rootkey.New(make([]byte, 32), rand.Reader)
	if err != nil {
		return nil, err
	}
	w.Accounts = accounts.New(w.DB, key, accounts.Options{Env: w.Env})
	w.Images = images.New(w.DB, images.Options{Dir: o.Dir, Tags: w.Accounts.Tags(), Env: w.Env})
	w.Accounts.Tags().Register("i", "instance", computerows.ExpectOwned)
	w.Accounts.Tags().Register("vol", "volume", computerows.ExpectOwned)
	w.Accounts.Tags().Register("ami", "image", imagerows.ExpectOwned)
	w.Networks, err = vpcs.New(w.DB, vpcs.Options{Region: Region, Zones: w.options.Zones, Tags: w.Accounts.Tags(), Env: w.Env})
	if err != nil {
		return nil, err
	}
	for _, t := range vpcrows.Taggables() {
		w.Accounts.Tags().Register(t.IDPrefix, string(t.Kind), t.Expect)
	}
	w.run(ctx, w.Accounts.Run)
	w.run(ctx, w.Networks.Run)
	w.run(ctx, w.Images.Run)
	if o.Resume != nil {
		w.Furniture = *o.Resume
	} else if err := w.furnish(ctx); err != nil {
		return nil, fmt.Errorf("furnish test world: %w", err)
	}
	w.Fleet = New(w.DB, nil)
	w.Start()
	w.run(ctx, w.Fleet.Run)
	for n := range o.Hosts {
		w.Fleet.AddHost(Info(n, Zone))
	}
	return w, w.awaitHosts(ctx, o.Hosts)
}

func (w *World) run(ctx context.Context, fn func(context.Context) error) {
	w.group.Go(func() { fn(ctx) }) //nolint:errcheck // ends with ctx
}

// Compute is the service that runs now.
func (w *World) Compute() *server.Service { return w.compute }

// Start starts a new compute service on the store, which all hosts then answer to.
func (w *World) Start() {
	tags := w.Accounts.Tags()
	db := w.DB
	if w.options.Between != nil {
		db = store.New(w.options.Between(w.options.Engine), store.Options{Tenant: "test"})
	}
	w.compute = server.New(db, server.Options{
		KeyPairs: w.Accounts, Tags: tags, Networks: w.Networks, Images: w.Images, Link: consoles{}, Region: Region,
		Env: w.Env, Log: w.options.Log, Tick: 20 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(w.ctx)
	w.stop, w.stopped = cancel, make(chan struct{})
	service, stopped := w.compute, w.stopped
	w.group.Go(func() {
		defer close(stopped)
		service.Run(ctx) //nolint:errcheck // ends with ctx
	})
	w.Fleet.Observe(w.compute)
}

// Stop ends the compute service, wherever it is, and waits until it is gone.
func (w *World) Stop() {
	w.stop()
	<-w.stopped
}

// Wait waits until everything has ended, after ctx has.
func (w *World) Wait() { w.group.Wait() }

// furnish makes the account and what a launch refers to.
func (w *World) furnish(ctx context.Context) error {
	a, _, _, err := w.Accounts.Create(ctx, "test")
	if err != nil {
		return err
	}
	cidr := netip.MustParsePrefix(w.options.CIDR)
	v, err := w.Networks.CreateVPC(ctx, vpc.CreateVPCRequest{Account: a.ID, CIDR: cidr})
	if err != nil {
		return err
	}
	subnet, err := w.Networks.CreateSubnet(ctx, vpc.CreateSubnetRequest{Account: a.ID, VPC: v.ID, CIDR: cidr, Zone: Zone})
	if err != nil {
		return err
	}
	w.Account, w.VPC, w.Subnet, w.Group = a.ID, v.ID, subnet.ID, v.DefaultGroup
	w.Image = ids.New[ids.Image](rand.Reader)
	_, err = w.DB.Transact(ctx, func(tx *store.Tx) error {
		_, err := imagerows.Register(ctx, tx, imagerows.Image{
			ID: w.Image, Owner: w.Account, Name: "test-image", Public: true, SHA256: strings.Repeat("0", 64), Bytes: 1 << 29,
			Architecture: "x86_64", RootSnapshot: ids.New[ids.Snapshot](rand.Reader), CreatedMs: w.Env.Clock.Now().UnixMilli(),
		}, 10)
		return err
	})
	return err
}

// consoles serves every console stream with one line, by target.
type consoles struct{}

func (consoles) OpenStream(_ context.Context, target, name string, _ []byte) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		fmt.Fprintf(there, "%s of %s\n", name, target)
		there.Close()
	}()
	return here, nil
}

// Request is a launch of n small instances.
func (w *World) Request(n int) compute.RunRequest {
	return compute.RunRequest{Image: w.Image, Type: "nb1.tiny", MinCount: n, MaxCount: n, Subnet: w.Subnet}
}

// SetQuota changes one of the account's limits.
func (w *World) SetQuota(q account.Quota, limit int64) error {
	_, err := w.DB.Transact(w.ctx, func(tx *store.Tx) error { return accountrows.SetQuota(w.ctx, tx, w.Account, q, limit) })
	return err
}

// Widen gives the account room for n launches, whatever a launch charges, and the hosts room for more than that.
func (w *World) Widen(ctx context.Context, n int64) error {
	for q := range account.DefaultQuotas() {
		if err := w.SetQuota(q, n); err != nil {
			return err
		}
	}
	hosts, err := w.compute.Hosts(ctx)
	if err != nil {
		return err
	}
	for i := range hosts {
		info := Info(i, Zone)
		info.VCPUs, info.MemoryMiB, info.DiskGiB = wideVCPUs, 4<<20, 1<<20
		w.Fleet.AddHost(info)
	}
	return w.Await(ctx, func() bool {
		hosts, err := w.compute.Hosts(ctx)
		return err == nil && !slices.ContainsFunc(hosts, func(h compute.Host) bool { return h.VCPUs != wideVCPUs })
	})
}

const wideVCPUs = 4000

// Await waits until done holds, looking again whenever anything in the store or on a host changes. It returns ctx's
// error when that ends first.
func (w *World) Await(ctx context.Context, done func() bool) error {
	version, err := w.DB.Version(ctx)
	if err != nil {
		return err
	}
	feed, err := w.DB.Watch(ctx, version)
	if err != nil {
		return err
	}
	defer feed.Close()
	for !done() {
		if _, err := feed.Next(ctx); err != nil { // comes at least every store.ProgressInterval
			return err
		}
	}
	return nil
}

// awaitHosts waits until n hosts may take instances.
func (w *World) awaitHosts(ctx context.Context, n int) error {
	return w.Await(ctx, func() bool {
		hosts, err := w.compute.Hosts(ctx)
		up := 0
		for _, h := range hosts {
			if h.Connected {
				up++
			}
		}
		return err == nil && up >= n
	})
}

// Check recounts everything.
func (w *World) Check(ctx context.Context) (check.Report, error) {
	all := computerows.Invariants()
	all = append(all, imagerows.Invariants()...)
	all = append(all, accountrows.Invariants()...)
	all = append(all, vpcrows.Invariants()...)
	return check.Run(ctx, w.DB, all)
}
