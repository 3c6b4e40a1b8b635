package store

import (
	"fmt"
	"io"
	"sync"
)

// sessions hands out commit identities: one current session, replaced when a commit in it ends unknown, because such a
// commit can never be acknowledged.
type sessions struct {
	random io.Reader

	mu      sync.Mutex
	current *session // mu
}

type session struct {
	id      SessionID
	next    uint64
	low     uint64 // every smaller seq is done
	pending map[uint64]struct{}
}

type ticket struct {
	session    *session
	seq        uint64
	ackedBelow uint64
}

func (s *sessions) begin() (ticket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		fresh := &session{next: 1, low: 1, pending: map[uint64]struct{}{}}
		if _, err := io.ReadFull(s.random, fresh.id[:]); err != nil {
			return ticket{}, fmt.Errorf("draw session id: %w", err)
		}
		s.current = fresh
	}
	c := s.current
	seq := c.next
	c.next++
	c.pending[seq] = struct{}{}
	return ticket{session: c, seq: seq, ackedBelow: c.low}, nil
}

func (s *sessions) end(t ticket, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unknown {
		if s.current == t.session {
			s.current = nil
		}
		return
	}
	c := t.session
	delete(c.pending, t.seq)
	for c.low < c.next {
		if _, waits := c.pending[c.low]; waits {
			return
		}
		c.low++
	}
}
