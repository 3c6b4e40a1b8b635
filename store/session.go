package store

import (
	"fmt"
	"io"
	"slices"
	"sync"
)

// sessions hands out commit identities. A session whose commit ended unknown is given up, because such a commit can
// never be acknowledged; one that has many commits under way or unacknowledged rests until they are answered.
type sessions struct {
	random io.Reader

	mu   sync.Mutex
	open []*session // mu; as many as the concurrency needs
}

// sessionWindow bounds the sequence numbers of a session from the first unanswered one on, well below
// MaxSessionRecords: acknowledgement travels with the next commit.
const sessionWindow = MaxSessionRecords / 4

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
	c, err := s.pick()
	if err != nil {
		return ticket{}, err
	}
	seq := c.next
	c.next++
	c.pending[seq] = struct{}{}
	return ticket{session: c, seq: seq, ackedBelow: c.low}, nil
}

// pick returns a session with room, or a fresh one. s.mu is held.
func (s *sessions) pick() (*session, error) {
	for _, c := range s.open {
		if c.next-c.low < sessionWindow {
			return c, nil
		}
	}
	fresh := &session{next: 1, low: 1, pending: map[uint64]struct{}{}}
	if _, err := io.ReadFull(s.random, fresh.id[:]); err != nil {
		return nil, fmt.Errorf("draw session id: %w", err)
	}
	s.open = append(s.open, fresh)
	return fresh, nil
}

func (s *sessions) end(t ticket, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unknown {
		s.open = slices.DeleteFunc(s.open, func(c *session) bool { return c == t.session })
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
