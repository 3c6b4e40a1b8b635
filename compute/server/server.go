// Package server is the service of compute: it launches and moves instances, answers reads from memory, and drives every
// instance to where its row says, by what hosts report and by time.
//
// Everything it remembers beside the rows is what hosts last said (reports, applied marks, sessions), and hosts say it
// again. A new server on the same store therefore goes on where the old one stopped, between any two transactions.
//
// Concurrency: all methods may be called from any goroutine. Lock order: view.mu, then links.mu; neither is held over a
// transaction.
//
// Start at Service, then reconcile.go.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// KeyPairs finds the key that a launch names.
type KeyPairs interface {
	DescribeKeyPairs(ctx context.Context, a ids.Account, s account.KeyPairSelection, match func(*account.KeyPair) bool) ([]account.KeyPair, error)
}

// Networks resolves where a launch attaches.
type Networks interface {
	Prepare(ctx context.Context, r vpc.PrepareRequest) (vpc.Prepared, error)
}

// Images finds the image that a launch names.
type Images interface {
	DescribeImages(ctx context.Context, a ids.Account, want []ids.Image, keep func(*image.Image) bool) ([]*image.Image, error)
}

// Link reaches hosts.
type Link interface {
	OpenStream(ctx context.Context, target, name string, header []byte) (net.Conn, error)
}

// Options are what the service works with. All but Link, Log and Tick are required.
type Options struct {
	KeyPairs KeyPairs
	Tags     account.TagReader
	Networks Networks
	Images   Images
	Link     Link // nil until SetLink
	Region   string
	Env      env.Env
	Log      *slog.Logger  // default slog.Default
	Tick     time.Duration // how often time is looked at; default 1 s
}

// interfaces is where vpc's rows of interfaces are: an instance is shown with its address and groups.
var interfaces = store.Prefix("vpc", vpcrows.FamilyInterface)

// Service implements compute.Service and dispatch.Observer.
type Service struct {
	db       *store.DB
	options  Options
	log      *slog.Logger
	view     *view
	follower *follow.Follower
	links    links
	queue    *queue
	link     Link
	began    atomic.Pointer[time.Time] // when the first rows came: hosts are awaited from then on
}

var (
	_ compute.Service   = (*Service)(nil)
	_ dispatch.Observer = (*Service)(nil)
)

// New makes the service. It does nothing, and reads wait, until Run.
func New(db *store.DB, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Tick == 0 {
		o.Tick = time.Second
	}
	s := &Service{db: db, options: o, log: o.Log, view: newView(o.Region), queue: newQueue(), link: o.Link}
	s.links.reset()
	s.follower = follow.New(db, [][]byte{computerows.Prefix(), interfaces, tagrows.Prefix()}, s.apply)
	return s
}

// SetLink gives the service its way to hosts, when that needs the service first. Call it before Run.
func (s *Service) SetLink(l Link) { s.link = l }

// Run follows the store and reconciles until ctx ends. It returns nil then, and an error when the store cannot be
// followed.
func (s *Service) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.reconcile(ctx)
	}()
	err := s.follower.Run(ctx)
	cancel()
	<-done
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("follow compute rows: %w", err)
	}
	return nil
}

// apply takes a batch of changes into the view and then wakes the reconciler for what changed. All that is committed comes
// through here, one batch after the other, and whatever waits here puts every reader behind: rows are read before the view
// is locked, and the queue is asked once.
func (s *Service) apply(b follow.Batch) {
	s.beginAwaiting()
	sets, calls := make([]func(), 0, len(b.Changes)), []work(nil)
	for _, change := range b.Changes {
		set, call, err := s.read(change)
		if err != nil {
			s.log.Error("row is unreadable", "key", fmt.Sprintf("%q", change.Key), "err", err)
			continue
		}
		if set != nil {
			sets = append(sets, set)
		}
		if call != (work{}) {
			calls = append(calls, call)
		}
	}
	s.view.update(b.Snapshot, sets)
	if len(calls) > 0 {
		s.queue.add(calls...)
	}
}

// read reads one change: how the view takes it, if it does, and what it may call for.
func (s *Service) read(change store.Change) (set func(), call work, err error) {
	switch {
	case store.HasPrefix(change.Key, interfaces):
		set, err = s.view.readInterface(change)
		return set, work{}, err
	case store.HasPrefix(change.Key, tagrows.Prefix()):
		set, err = s.view.readTags(change)
		return set, work{}, err
	}
	c, err := computerows.Parse(change)
	if err != nil {
		return nil, work{}, err
	}
	return func() { s.view.apply(c) }, callOf(c), nil
}

// callOf is what a row's change may call for.
func callOf(c computerows.Change) work {
	switch {
	case c.Table == "instance":
		return work{instance: ids.Instance(c.ID)}
	case c.Table == "host", c.Table == "place" && !c.Deleted && c.Placement.Releasing:
		return work{host: c.Host}
	}
	return work{}
}

// current waits until the view shows everything that was committed before the call.
func (s *Service) current(ctx context.Context) error {
	version, err := s.db.Version(ctx)
	if err != nil {
		return fmt.Errorf("read store version: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, compute.ReadBehind, compute.ErrBehind)
	defer cancel()
	if err := s.follower.WaitVersion(ctx, version); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// moment is now, for a transaction.
func (s *Service) moment() *computerows.Moment {
	return &computerows.Moment{Now: s.options.Env.Clock.Now(), Random: s.options.Env.Random}
}
