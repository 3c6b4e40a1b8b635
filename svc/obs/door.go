package obs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// DoorOptions bound what a Door holds open.
type DoorOptions struct {
	// Connections bounds those that are open. Default 1,024.
	Connections int
	// WriteTimeout bounds a request from its headers to the end of its answer. Default: none, for streams and profiles.
	WriteTimeout time.Duration
}

// Bounds on a connection that says nothing, or little.
const (
	headerTimeout  = 10 * time.Second // for a request's headers
	idleTimeout    = 2 * time.Minute  // between requests
	maxHeaderBytes = 64 << 10
	drainTimeout   = 5 * time.Second
)

// Door serves HTTP on a bounded number of connections, so that nobody can use up the process's by opening them. Beyond the
// bound a new connection takes the place of the one that has gone longest without showing a credential (see Proven), or
// else of the one that has been at no work the longest; when all are at work it is refused. A stranger therefore keeps out
// strangers only. Work begins when the request at hand has shown its credential: one whose request comes in byte by byte
// makes room as an idle one does, whatever it has shown before.
type Door struct {
	options DoorOptions

	mu    sync.Mutex
	conns map[net.Conn]*connection
	stats DoorStats // all but Open
}

// DoorStats counts connections.
type DoorStats struct {
	Open             int
	Evicted, Refused uint64
}

// connection is what a Door knows of one; the Door's mu guards it.
type connection struct {
	door   *Door
	proven bool
	works  bool      // on a request that has shown a credential
	since  time.Time // of its opening; once proven, of the end of its last work or of the request whose body comes in
}

// NewDoor makes a Door.
func NewDoor(o DoorOptions) *Door {
	if o.Connections == 0 {
		o.Connections = 1024
	}
	return &Door{options: o, conns: map[net.Conn]*connection{}}
}

// Stats counts now.
func (d *Door) Stats() DoorStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.stats
	out.Open = len(d.conns)
	return out
}

type connectionKey struct{}

// Proven notes that a request, read whole, has shown a credential that was verified. ctx is the request's; one that came
// through no Door is left alone.
func Proven(ctx context.Context) {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		c.door.mu.Lock()
		c.proven, c.works = true, true
		c.door.mu.Unlock()
	}
}

// WasProven says whether the connection of a request has shown a credential before.
func WasProven(ctx context.Context) bool {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok {
		return false
	}
	c.door.mu.Lock()
	defer c.door.mu.Unlock()
	return c.proven
}

// Serve serves h on l until ctx ends, then gives requests under way a moment.
func (d *Door) Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: d.options.WriteTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug), ConnContext: d.opened, ConnState: d.moved,
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if s.Shutdown(drain) != nil {
			_ = s.Close() // hijacked and slow connections end with the process
		}
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}

// opened takes a new connection in, and makes room for it.
func (d *Door) opened(ctx context.Context, c net.Conn) context.Context {
	entry := &connection{door: d, since: time.Now()}
	d.mu.Lock()
	out := d.makeRoom(c)
	if out != c {
		d.conns[c] = entry
	}
	d.mu.Unlock()
	if out != nil {
		_ = out.Close()
	}
	return context.WithValue(ctx, connectionKey{}, entry)
}

// makeRoom chooses who leaves: nobody while there is room, or c itself; mu is held.
func (d *Door) makeRoom(c net.Conn) net.Conn {
	if len(d.conns) < d.options.Connections {
		return nil
	}
	var out net.Conn
	for other, entry := range d.conns {
		if entry.works || (out != nil && !entry.before(d.conns[out])) {
			continue
		}
		out = other
	}
	if out == nil {
		d.stats.Refused++
		return c
	}
	d.stats.Evicted++
	delete(d.conns, out)
	return out
}

// before says whether an entry leaves before another.
func (c *connection) before(other *connection) bool {
	if c.proven != other.proven {
		return other.proven
	}
	return c.since.Before(other.since)
}

// moved follows a connection's state.
func (d *Door) moved(c net.Conn, state http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	entry := d.conns[c]
	switch {
	case entry == nil:
	case state == http.StateClosed || state == http.StateHijacked:
		delete(d.conns, c)
	case entry.proven && (state == http.StateIdle || state == http.StateActive):
		entry.works, entry.since = false, time.Now()
	}
}
