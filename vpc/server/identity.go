package server

import (
	"context"
	"errors"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// retiredAhead is how many numbers of a VPC that is nearly full wait for their hosts ahead of the need: the hosts' answer
// takes a moment, and a launch should not wait for it.
const retiredAhead = 64

// lookBatches bounds the search for unused identities of one call, in batches of 64.
const lookBatches = 32

// internAttempts bounds the tries of a call that others overtake.
const internAttempts = 3

// intern makes an identity. The caller holds s.interning.
func (s *Service) intern(ctx context.Context, r vpcrows.InternRequest) (out vpc.Identity, err error) {
	for range internAttempts {
		if r.Reuse, err = s.reusable(ctx, r.Account, r.VPC); err != nil {
			return vpc.Identity{}, err
		}
		_, err = s.transact(ctx, "intern identity in "+string(r.VPC), func(tx *store.Tx) (err error) {
			out, err = vpcrows.InternIdentity(ctx, tx, r)
			return err
		})
		if !errors.Is(err, vpc.ErrStale) {
			break
		}
	}
	return out, err
}

// reusable returns the number that a nearly full VPC may use again, if there is one, and sees to it that there will be.
// Numbers that were never given are used first, so that a number rests for as long as possible.
func (s *Service) reusable(ctx context.Context, a ids.Account, v ids.VPC) (*vpcrows.Retired, error) {
	waiting, last, err := s.retired(ctx, v)
	if err != nil || last < s.maxIdentities-2*retiredAhead {
		return nil, err
	}
	if len(waiting) < retiredAhead {
		if err := s.retireUnused(ctx, v); err != nil {
			return nil, err
		}
		if waiting, _, err = s.retired(ctx, v); err != nil {
			return nil, err
		}
	}
	if len(waiting) == 0 || s.applied == nil {
		return nil, nil
	}
	// After the rows: a host that joins the VPC from here on is not told of what had left before.
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	if !s.confirmed(a, waiting[0]) {
		return nil, nil
	}
	return &waiting[0], nil
}

func (s *Service) retired(ctx context.Context, v ids.VPC) (waiting []vpcrows.Retired, last int, err error) {
	err = s.db.View(ctx, func(r store.Reader) (err error) {
		if last, err = vpcrows.LastIdentity(ctx, r, v); err != nil || last < s.maxIdentities-2*retiredAhead {
			return err
		}
		waiting, err = vpcrows.RetiredIdentities(ctx, r, v, retiredAhead)
		return err
	})
	return waiting, last, err
}

// retireUnused retires identities that no interface has: of sets that were asked for and launched nothing, or whose
// instances are gone. It looks at the next lookBatches of them at most, going round.
func (s *Service) retireUnused(ctx context.Context, v ids.VPC) error {
	var unused []vpc.Identity
	err := s.db.View(ctx, func(r store.Reader) (err error) {
		for batch := 0; batch < lookBatches && len(unused) == 0 && err == nil; batch++ {
			unused, s.looked[v], err = vpcrows.UnusedIdentities(ctx, r, v, s.looked[v])
		}
		return err
	})
	if s.looked[v] == 0 {
		delete(s.looked, v)
	}
	if err != nil || len(unused) == 0 {
		return err
	}
	_, err = s.transact(ctx, "retire identities of "+string(v), func(tx *store.Tx) error {
		vpcrows.RetireIdentities(tx, unused)
		return nil
	})
	if errors.Is(err, vpc.ErrStale) { // a launch uses one of them now: the next call looks at others
		return nil
	}
	return err
}

// confirmed says whether every host with an interface in the VPC, releasing ones included, has applied past the number's
// end. A host without one follows the VPC no more.
func (s *Service) confirmed(a ids.Account, gone vpcrows.Retired) bool {
	doc := host.DocVPC(gone.VPC)
	for h := range s.hostsOf(a, gone.VPC) {
		target := host.DocHost(h)
		if s.applied(target, doc, host.SectionIdentities) < gone.IdentitiesSeq ||
			s.applied(target, doc, host.SectionMappings) < gone.MappingsSeq {
			return false
		}
	}
	return true
}

func (s *Service) hostsOf(a ids.Account, v ids.VPC) map[ids.Host]bool {
	hosts := map[ids.Host]bool{}
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	for _, i := range s.view.interfaces[a] {
		if i.VPC == v {
			hosts[i.Host] = true
		}
	}
	return hosts
}
