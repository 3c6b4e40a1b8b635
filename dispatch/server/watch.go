package server

import (
	"context"
	"slices"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/store"
)

// heard notes that a target spoke, and hands its events to the observer.
func (s *Server) heard(l *link, events []session.Event) {
	t := l.t
	t.calls.Lock()
	defer t.calls.Unlock()
	now := s.o.Clock.Now()
	s.mu.Lock()
	t.lastHeard = now
	up := t.liveness == dispatch.Suspect || t.liveness == dispatch.Dead
	opened := false
	for _, e := range events {
		if o, ok := e.(*session.Opened); ok {
			t.info, t.bootID, opened = o.Hello.Info, o.Hello.BootID, true
		}
	}
	if opened || up {
		t.liveness, t.since = dispatch.Up, now
	}
	info := t.info
	s.mu.Unlock()
	if up || opened {
		s.o.Observer.TargetUp(t.name, info)
	}
	l.logEvents(events)
	for _, e := range events {
		switch e := e.(type) {
		case *session.Applied:
			if e.ID.Doc == t.name {
				s.o.Observer.Applied(t.name, e.ID.Section, e.Seq, e.Failures)
			}
		case *session.Actual:
			s.o.Observer.Actual(t.name, e.Section, e.Full, e.Upserts, e.Deletes)
		}
	}
}

// watchOver judges silence, resends in full, and collects tombstones, until ctx ends.
func (s *Server) watchOver(ctx context.Context) {
	tick := time.NewTicker(s.o.Tick)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, t := range s.judge() {
			go s.tellDown(t)
		}
		s.resend()
		if n%60 == 59 {
			s.collect(ctx)
		}
	}
}

// judge moves targets by their silence and answers those that became suspect.
func (s *Server) judge() []*target {
	now := s.o.Clock.Now()
	var suspects []*target
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.targets {
		silence := now.Sub(t.lastHeard)
		switch {
		case t.liveness == dispatch.Up && silence > s.o.SuspectAfter:
			t.liveness, t.since = dispatch.Suspect, now
			suspects = append(suspects, t)
		case t.liveness == dispatch.Suspect && silence > s.o.DeadAfter:
			t.liveness, t.since = dispatch.Dead, now
		}
	}
	return suspects
}

// tellDown tells the observer, unless the target spoke again before its turn came.
func (s *Server) tellDown(t *target) {
	t.calls.Lock()
	defer t.calls.Unlock()
	s.mu.Lock()
	down, heard := t.liveness != dispatch.Up, t.lastHeard
	s.mu.Unlock()
	if down {
		s.o.Observer.TargetDown(t.name, heard)
	}
}

func (s *Server) links() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	var live []*link
	for _, t := range s.targets {
		if t.live != nil {
			live = append(live, t.live)
		}
	}
	return live
}

// resend starts the full resend of each session whose time has come.
func (s *Server) resend() {
	if s.o.ResendPeriod < 0 {
		return
	}
	now := s.o.Clock.Now()
	for _, l := range s.links() {
		l.t.mu.Lock()
		if l.core != nil && now.After(l.nextResend) {
			l.nextResend = now.Add(s.o.ResendPeriod)
			l.core.ResendAll()
			l.wakeUp()
		}
		l.t.mu.Unlock()
	}
}

// collectMax bounds the tombstones collected in one transaction.
const collectMax = 200

type tombstone struct {
	id  dispatch.SectionID
	key string
	rev dispatch.Rev
}

// collect removes tombstones that every reader has, and the oldest beyond the bound.
func (s *Server) collect(ctx context.Context) {
	dead := s.collectable()
	for chunk := range slices.Chunk(dead, collectMax) {
		_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
			for _, d := range chunk {
				if err := dispatchrows.Collect(ctx, tx, d.id, d.key, d.rev); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			if ctx.Err() == nil {
				s.o.Log.Warn("collect tombstones", "err", err)
			}
			return
		}
	}
}

// collectable lists tombstones that may go.
func (s *Server) collectable() []tombstone {
	durable := s.durableEverywhere()
	s.docs.RLock()
	defer s.docs.RUnlock()
	var dead []tombstone
	for _, doc := range s.lib.Docs() {
		for _, name := range s.lib.Sections(doc) {
			id := dispatch.SectionID{Doc: doc, Section: name}
			tombs := s.lib.Section(id).Tombstones()
			floor := durable(id)
			for i, e := range tombs {
				if e.Rev <= floor || len(tombs)-i > dispatch.MaxTombstones {
					dead = append(dead, tombstone{id, e.Key, e.Rev})
				}
			}
		}
	}
	return dead
}

// durableEverywhere answers how far every known reader of a section got: the target itself for its own document,
// otherwise the sessions subscribed now. Others receive the section in full when they come.
func (s *Server) durableEverywhere() func(dispatch.SectionID) dispatch.Seq {
	s.mu.Lock()
	readers := map[string][]*target{}
	for doc, links := range s.interest {
		for l := range links {
			readers[doc] = append(readers[doc], l.t)
		}
	}
	for name, t := range s.targets {
		if len(readers[name]) == 0 {
			readers[name] = []*target{t}
		}
	}
	s.mu.Unlock()
	marks := map[*target]map[dispatch.SectionID]session.Marks{}
	for _, all := range readers {
		for _, t := range all {
			if marks[t] == nil {
				marks[t] = t.marks()
			}
		}
	}
	return func(id dispatch.SectionID) dispatch.Seq {
		least := dispatch.Seq(0)
		for i, t := range readers[id.Doc] {
			if d := marks[t][id].Durable; i == 0 || d < least {
				least = d
			}
		}
		return least
	}
}
