package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/compute/internal/place"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/svc/op"
)

const (
	// workers bounds the reconciler's transactions under way; they share group commits.
	workers = 32
	// collectEvery is how often old client tokens and operations are removed; shorter than the grace that an instance's row
	// gives its token.
	collectEvery = 10 * time.Minute
)

// reconcile works until ctx ends. It takes no input: whatever is queued, it looks at the rows and at what hosts say.
func (s *Service) reconcile(ctx context.Context) {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() { s.work(ctx) })
	}
	group.Go(func() { s.tick(ctx) })
	group.Go(func() { s.collect(ctx) })
	group.Wait()
}

func (s *Service) work(ctx context.Context) {
	for {
		w, ok := s.queue.take(ctx)
		if !ok {
			return
		}
		err := s.do(ctx, w)
		s.queue.done(w)
		if err != nil && ctx.Err() == nil {
			// Level-triggered: the next tick or event looks again.
			s.log.Warn("reconcile", "instance", w.instance, "host", w.host, "err", err)
			s.queue.addAfter(w, s.options.Tick)
		}
	}
}

// tick queues what time may change.
func (s *Service) tick(ctx context.Context) {
	ticker := time.NewTicker(s.options.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for list := range slices.Chunk(s.view.looksDue(), lookAtOnce) {
				s.queue.add(list...)
			}
			for _, id := range s.misnoted() {
				s.queue.add(work{host: id})
			}
		}
	}
}

func (s *Service) collect(ctx context.Context) {
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		now := s.options.Env.Clock.Now()
		if _, err := idem.Collect(ctx, s.db, now); err != nil && ctx.Err() == nil {
			s.log.Warn("collect client tokens", "err", err)
		}
		if _, err := op.Collect(ctx, s.db, now); err != nil && ctx.Err() == nil {
			s.log.Warn("collect operations", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *Service) do(ctx context.Context, w work) error {
	if w.host != "" {
		return s.doHost(ctx, w.host)
	}
	i := s.view.instance(w.instance)
	if i == nil {
		return nil
	}
	now := s.options.Env.Clock.Now()
	r, known := s.links.report(i.Host, i.ID)
	overdue, _ := lifecycle.Overdue(i.Situation(), now)
	switch {
	case i.State == compute.Terminated && !now.Before(i.PurgeAt()):
		_, err := s.moment().Purge(ctx, s.db, i.ID)
		return err
	case known && computerows.NeedsObserve(i, i.Host, r):
		return s.retryable(i, lifecycle.Fold(i.Situation(), r), func(e computerows.Elsewhere) error {
			return s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error { return m.Observe(ctx, tx, i.Host, r, e) })
		})
	case overdue != lifecycle.Keep:
		return s.retryable(i, overdue, func(e computerows.Elsewhere) error {
			return s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error { return m.Expire(ctx, tx, i.ID, e) })
		})
	}
	return nil
}

// retryable calls fn with where a pending launch may go on when that is the step, and with nowhere when there turns out
// to be no room. A launch never becomes pending again, so a step that a stale view misses is not Retry.
func (s *Service) retryable(i *computerows.Instance, step lifecycle.Step, fn func(computerows.Elsewhere) error) error {
	if step != lifecycle.Retry {
		return fn(computerows.Elsewhere{})
	}
	var full *compute.CapacityError
	err := fn(s.elsewhere(i))
	if errors.As(err, &full) {
		return fn(computerows.Elsewhere{})
	}
	return err
}

func (s *Service) transact(ctx context.Context, fn func(*computerows.Moment, *store.Tx) error) error {
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error { return fn(s.moment(), tx) })
	return err
}

// elsewhere chooses where a pending launch may be retried.
func (s *Service) elsewhere(i *computerows.Instance) computerows.Elsewhere {
	hosts := s.view.candidates(i.Zone, func(h ids.Host) bool { return h != i.Host && s.counts(h) })
	chosen := place.New(hosts, newRand()).Choose(i.Size, place.Candidates)
	return computerows.Elsewhere{
		Candidates: chosen,
		NoRoom:     &compute.CapacityError{Type: i.Type, Zone: i.Zone, Reason: place.Explain(hosts, i.Size)},
	}
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

// doHost registers a host as it describes itself, notes whether it is silent, and releases what it has confirmed.
func (s *Service) doHost(ctx context.Context, id ids.Host) error {
	var (
		info    host.Info
		applied computerows.Applied
		failed  = map[string]bool{}
	)
	known := s.links.read(id, func(h *hostLink) {
		info, applied = h.info, h.applied
		for _, section := range h.failed {
			for key := range section {
				failed[key] = true
			}
		}
	})
	if info.ID != "" && !s.registered(info) {
		err := s.transact(ctx, func(_ *computerows.Moment, tx *store.Tx) error {
			return computerows.RegisterHost(ctx, tx, info)
		})
		if err != nil {
			return err
		}
	}
	if err := s.noteSilence(ctx, id); err != nil || !known {
		return err
	}
	return s.release(ctx, id, applied, failed)
}

func (s *Service) registered(info host.Info) bool {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	h := s.view.hosts[info.ID]
	return h != nil && h.row != nil && h.row.Info == info
}

// releaseBatch bounds the placements that one transaction releases.
const releaseBatch = 16

func (s *Service) release(ctx context.Context, id ids.Host, a computerows.Applied, failed map[string]bool) error {
	var batch []ids.Instance
	for _, i := range s.view.releasing(id, a) {
		row := s.view.instance(i)
		if failed[string(i)] || (row != nil && failed[string(row.Interface)]) {
			continue
		}
		batch = append(batch, i)
	}
	for len(batch) > 0 {
		part := batch[:min(releaseBatch, len(batch))]
		batch = batch[len(part):]
		err := s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error {
			for _, i := range part {
				if err := m.Release(ctx, tx, id, i, a); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
