package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
)

// Options of a server. The zero value of a field takes its default.
type Options struct {
	Log *slog.Logger
	// MaxConns bounds connections, MaxRequests the requests under way on one, MaxFeeds its streams. Defaults 256, 2,048
	// and 256. A connection beyond the bound is closed; a request or feed is refused.
	MaxConns, MaxRequests, MaxFeeds int
	// MaxSnapshots bounds the snapshots held for all clients, MaxClientSnapshots those of one connection. Defaults 16,384
	// and 4,096.
	MaxSnapshots, MaxClientSnapshots int
	// Lease is how long a snapshot is held that is not released, Grace how long it is held without the connection that
	// used it last. Defaults 5 min, as embed's, and 30 s.
	Lease, Grace time.Duration
}

func (o *Options) fill() {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	for field, value := range map[*int]int{
		&o.MaxConns: 256, &o.MaxRequests: 2048, &o.MaxFeeds: 256, &o.MaxSnapshots: 16384, &o.MaxClientSnapshots: 4096,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	if o.Lease <= 0 {
		o.Lease = 5 * time.Minute
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
}

// maxLong bounds the commits that travel over streams at once.
const maxLong = 16

// Server serves one engine, which it does not own. Safe for concurrent use.
type Server struct {
	engine  store.Engine
	history store.HistoryID
	options Options
	held    *held
	long    chan struct{}   // one for each long commit under way, of all connections: they take memory
	ending  context.Context // ends feeds
	end     context.CancelFunc

	mu     sync.Mutex
	closed bool                   // mu
	begun  int                    // mu: connections, those in their handshake included
	conns  map[*rpc.Conn]struct{} // mu
	wg     sync.WaitGroup         // of connections
}

// New makes a server of an engine.
func New(ctx context.Context, e store.Engine, o Options) (*Server, error) {
	o.fill()
	s, err := e.Snapshot(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	history := s.History()
	s.Release()
	srv := &Server{engine: e, history: history, options: o, held: newHeld(o), long: make(chan struct{}, maxLong),
		conns: map[*rpc.Conn]struct{}{}}
	srv.ending, srv.end = context.WithCancel(context.WithoutCancel(ctx))
	return srv, nil
}

// Serve accepts connections until ctx ends or the listener fails, and closes the listener. For TLS give it a listener of
// package tls with rpc.ServerTLS. Call Close to end the connections.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		nc, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		if !s.admit() {
			nc.Close()
			continue
		}
		go s.serve(ctx, nc)
	}
}

func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.begun >= s.options.MaxConns {
		return false
	}
	s.begun++
	s.wg.Add(1)
	return true
}

func (s *Server) serve(ctx context.Context, nc net.Conn) {
	defer s.wg.Done()
	h := &handler{s: s}
	c, err := rpc.Server(ctx, nc, rpc.Options{Handler: h, Agent: "nimbrel store",
		MaxRequests: s.options.MaxRequests, MaxStreams: s.options.MaxFeeds})
	s.mu.Lock()
	closed := s.closed
	if err == nil && !closed {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if err == nil && closed {
		c.Close()
	}
	if err == nil {
		<-c.Done()
		s.held.orphan(c)
	} else {
		s.options.Log.Debug("connection refused", "peer", nc.RemoteAddr().String(), "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun--
	delete(s.conns, c)
}

// Close lets what is under way end until ctx is over, then ends the connections and releases their snapshots. The engine
// stays open.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var conns []*rpc.Conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	s.end()
	errs := make([]error, len(conns))
	var group sync.WaitGroup
	for i, c := range conns {
		group.Go(func() {
			_ = c.Drain(ctx) // what does not end in time is cut off
			errs[i] = c.Close()
		})
	}
	group.Wait()
	s.wg.Wait()
	s.held.close()
	return errors.Join(errs...)
}
