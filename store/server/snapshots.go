package server

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// held are the snapshots that clients have open.
type held struct {
	o Options

	mu   sync.Mutex
	open map[wire.SnapshotID]*lease // mu
	of   map[*rpc.Conn]int          // mu: how many each connection used last
}

type lease struct {
	snapshot store.Snapshot
	conn     *rpc.Conn // that used it last; nil when that ended
	expires  time.Time
	orphaned time.Time // when the connection ended
}

func newHeld(o Options) *held {
	return &held{o: o, open: map[wire.SnapshotID]*lease{}, of: map[*rpc.Conn]int{}}
}

// room tells whether the connection may open one more; when not, what is expired goes first.
func (h *held) room(c *rpc.Conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	full := func() bool { return len(h.open) >= h.o.MaxSnapshots || h.of[c] >= h.o.MaxClientSnapshots }
	if full() {
		h.sweep(time.Now())
	}
	if full() {
		return &rpc.Error{Code: rpc.CodeOverloaded, Message: fmt.Sprintf("%d snapshots are open, %d by this client: release some",
			len(h.open), h.of[c])}
	}
	return nil
}

// sweep needs mu.
func (h *held) sweep(now time.Time) {
	for id, l := range h.open {
		if now.After(l.expires) || (l.conn == nil && now.After(l.orphaned.Add(h.o.Grace))) {
			h.drop(id, l)
		}
	}
}

// drop needs mu.
func (h *held) drop(id wire.SnapshotID, l *lease) {
	l.snapshot.Release()
	delete(h.open, id)
	h.uncount(l.conn)
}

// uncount needs mu.
func (h *held) uncount(c *rpc.Conn) {
	if c == nil {
		return
	}
	if h.of[c]--; h.of[c] <= 0 {
		delete(h.of, c)
	}
}

func (h *held) add(c *rpc.Conn, s store.Snapshot) (id wire.SnapshotID) {
	_, _ = rand.Read(id[:]) // never fails
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sweepSome()
	l := &lease{snapshot: s, conn: c, expires: time.Now().Add(h.o.Lease)}
	if c.Err() != nil { // it was orphaned already
		l.conn, l.orphaned = nil, time.Now()
	} else {
		h.of[c]++
	}
	h.open[id] = l
	return id
}

// sweepSome looks at a few leases, so that what clients left goes while others come. It needs mu.
func (h *held) sweepSome() {
	n, now := 0, time.Now()
	for id, l := range h.open {
		if now.After(l.expires) || (l.conn == nil && now.After(l.orphaned.Add(h.o.Grace))) {
			h.drop(id, l)
		}
		if n++; n == 4 {
			return
		}
	}
}

// use returns a snapshot, which from now on is this connection's.
func (h *held) use(c *rpc.Conn, id wire.SnapshotID) (store.Snapshot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.open[id]
	if l == nil || time.Now().After(l.expires) {
		return nil, wire.ErrSnapshotLost
	}
	if l.conn != c && c.Err() == nil {
		h.uncount(l.conn)
		l.conn = c
		h.of[c]++
	}
	return l.snapshot, nil
}

func (h *held) release(ids []wire.SnapshotID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if l := h.open[id]; l != nil {
			h.drop(id, l)
		}
	}
}

// orphan begins the grace of what an ended connection used last.
func (h *held) orphan(c *rpc.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.open {
		if l.conn == c {
			l.conn, l.orphaned = nil, time.Now()
		}
	}
	delete(h.of, c)
	h.sweep(time.Now())
}

func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, l := range h.open {
		h.drop(id, l)
	}
}
