package server

import (
	"context"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// counts says whether a host is believed to be there: it is heard, or it is awaited. Placement and status checks ask
// this. view.mu is held.
func (s *Service) counts(id ids.Host) bool {
	if up, heard := s.links.up(id); heard {
		return up
	}
	return s.awaited(id)
}

// beginAwaiting notes when the first rows came.
func (s *Service) beginAwaiting() {
	if s.began.Load() == nil {
		s.began.Store(new(s.options.Env.Clock.Now()))
	}
}

// awaited says whether a host that this server has not heard yet is counted on all the same: the server before had not
// lost it when it ended, and there was no time to return yet. A launch that believes this wrongly is retried elsewhere
// like one whose host died. view.mu is held.
func (s *Service) awaited(id ids.Host) bool {
	h, began := s.view.hosts[id], s.began.Load()
	return h != nil && h.row != nil && !h.row.Silent && began != nil && s.options.Env.Clock.Now().Before(began.Add(compute.HostAwaitedFor))
}

// believed is counts for who does not hold view.mu.
func (s *Service) believed(id ids.Host) bool {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	return s.counts(id)
}

// misnoted lists the hosts whose rows say otherwise than this server believes. There are some only when a host fell silent
// or came back.
func (s *Service) misnoted() []ids.Host {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	var out []ids.Host
	for id, h := range s.view.hosts {
		if h.row != nil && h.row.Silent == s.counts(id) {
			out = append(out, id)
		}
	}
	return out
}

// noteSilence makes a host's row say what this server believes, for the server after this one.
func (s *Service) noteSilence(ctx context.Context, id ids.Host) error {
	s.view.mu.RLock()
	h, silent := s.view.hosts[id], !s.counts(id)
	wrong := h != nil && h.row != nil && h.row.Silent != silent
	s.view.mu.RUnlock()
	if !wrong {
		return nil
	}
	return s.transact(ctx, func(_ *computerows.Moment, tx *store.Tx) error {
		return computerows.NoteSilence(ctx, tx, id, silent)
	})
}
