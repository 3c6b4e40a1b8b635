// Package server is the networks part's work: it implements vpc.Service on the store.
//
// Writes are transactions over vpcrows. Reads come from a view in memory that follows the store's feed; Run feeds it, and
// until it does every read returns vpc.ErrBehind. Lock order: the view's lock, then that of the tags.
//
// Start with New, then topology.go and groups.go.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// readPatience is how long a read waits for the view.
const readPatience = time.Second

// maxZones bounds the zones: each has one /20 of the default VPC's /16.
const maxZones = 1 << (vpc.DefaultSubnetBits - vpc.MinPrefixBits)

// Options of a Service. All but Env are needed.
type Options struct {
	Region string   // for names: "us-nimbrel-1"
	Zones  []string // in order, at most 16
	Tags   account.TagReader
	Env    env.Env // default: the machine's
	// IdentitiesPerVPC is for tests; default and at most vpc.MaxIdentitiesPerVPC.
	IdentitiesPerVPC int
}

// Validate reports what is missing.
func (o Options) Validate() error {
	switch {
	case o.Region == "":
		return errors.New("vpc options: no region")
	case len(o.Zones) == 0 || len(o.Zones) > maxZones:
		return fmt.Errorf("vpc options: %d zones, want 1 to %d", len(o.Zones), maxZones)
	case o.IdentitiesPerVPC < 0 || o.IdentitiesPerVPC > vpc.MaxIdentitiesPerVPC:
		return fmt.Errorf("vpc options: %d identities per VPC, want at most %d", o.IdentitiesPerVPC, vpc.MaxIdentitiesPerVPC)
	case o.Tags == nil:
		return errors.New("vpc options: no tags")
	}
	return nil
}

// Service implements vpc.Service. Make one with New and keep Run going.
type Service struct {
	db            *store.DB
	region        string
	zones         []string
	tags          account.TagReader
	env           env.Env
	view          *view
	follower      *follow.Follower
	maxIdentities int
	applied       Applied // nil until FollowApplied
	// interning makes those who need a new identity at the same time wait for the first instead of conflicting with it.
	interning sync.Mutex
	looked    map[ids.VPC]uint16 // guarded by interning: where the search for unused identities goes on
}

var _ vpc.Service = (*Service)(nil)

// New returns a service.
func New(db *store.DB, o Options) (*Service, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Env.Clock == nil {
		o.Env = env.System()
	}
	if o.IdentitiesPerVPC == 0 {
		o.IdentitiesPerVPC = vpc.MaxIdentitiesPerVPC
	}
	s := &Service{db: db, maxIdentities: o.IdentitiesPerVPC, looked: map[ids.VPC]uint16{}, region: o.Region, zones: slices.Clone(o.Zones), tags: o.Tags, env: o.Env, view: newView()}
	s.follower = follow.New(db, vpcrows.ViewPrefixes(), s.view.apply)
	return s, nil
}

// Applied tells up to which sequence a target has applied a section of a document; 0 when it has not said so.
type Applied func(target, doc, section string) uint64

// FollowApplied gives the service the marks of hosts, by which identities are used again. Call it before Run; without it
// none is.
func (s *Service) FollowApplied(marks Applied) { s.applied = marks }

// Run feeds the view until ctx ends or the store cannot be followed.
func (s *Service) Run(ctx context.Context) error { return s.follower.Run(ctx) }

func (s *Service) now() time.Time { return s.env.Clock.Now().UTC().Truncate(time.Millisecond) }

// wait returns once the view has all that is committed now.
func (s *Service) wait(ctx context.Context) error {
	v, err := s.db.Version(ctx)
	if err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	if err := s.follower.WaitVersion(patient, v); err != nil {
		return errors.Join(ctx.Err(), vpc.ErrBehind)
	}
	return nil
}

// waitAll waits for the tags too.
func (s *Service) waitAll(ctx context.Context) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	if err := s.tags.WaitTags(ctx); errors.Is(err, account.ErrBehind) {
		return vpc.ErrBehind
	} else if err != nil {
		return err
	}
	return nil
}

// transact runs one transaction and names it in its error.
func (s *Service) transact(ctx context.Context, what string, fn func(tx *store.Tx) error) (*store.Result, error) {
	result, err := s.db.Transact(ctx, fn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return result, nil
}

// query is one Describe call over a table of the view.
type query[K ~string, R, V any] struct {
	kind  vpc.Kind
	table func(*view) owned[K, R]
	show  func(*view, R) V // under the view's lock
	id    func(*V) K
}

// run returns the wanted rows of an account that match, by id. See vpc.Service.
func (q query[K, R, V]) run(ctx context.Context, s *Service, a ids.Account, want []K, match func(*V) bool) ([]V, error) {
	if err := s.waitAll(ctx); err != nil {
		return nil, err
	}
	shown, err := q.collect(s.view, a, want)
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(shown, func(v V) bool { return match != nil && !match(&v) })
	slices.SortFunc(out, func(x, y V) int { return cmp.Compare(q.id(&x), q.id(&y)) })
	return out, nil
}

func (q query[K, R, V]) collect(v *view, a ids.Account, want []K) ([]V, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	rows := q.table(v)[a]
	var out []V
	if len(want) == 0 {
		for _, r := range rows {
			out = append(out, q.show(v, r))
		}
		return out, nil
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(want))) {
		r, found := rows[id]
		if !found {
			return nil, &vpc.NotFoundError{Kind: q.kind, ID: string(id)}
		}
		out = append(out, q.show(v, r))
	}
	return out, nil
}
