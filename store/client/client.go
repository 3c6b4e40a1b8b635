package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

var (
	// ErrSnapshotLost says that the server holds a snapshot no more: it restarted, or gave it up. It comes with
	// store.ErrTooOld: read again from a new snapshot.
	ErrSnapshotLost = wire.ErrSnapshotLost
	// ErrUnavailable says that the server did not answer for Options.RetryFor. Nothing was applied, unless the error is
	// store.ErrUnknown too.
	ErrUnavailable = errors.New("store server is unavailable")
)

// Options of a client. The zero value of a field takes its default.
type Options struct {
	// Dial makes a connection, with TLS where that is wanted. Required.
	Dial func(ctx context.Context) (net.Conn, error)
	// MaxInFlight bounds requests under way, beyond which callers wait. Default 1,024.
	MaxInFlight int
	// RetryFor bounds how long one operation goes on without a connection or an answer, within its context. Default 30 s.
	RetryFor time.Duration
	// DialTimeout bounds one attempt to connect, BackoffMax the pause between two. Defaults 5 s and 1 s.
	DialTimeout, BackoffMax time.Duration
}

const backoffMin = 2 * time.Millisecond

// Client is a connection to a server, made when it is first needed. Safe for concurrent use.
type Client struct {
	o        Options
	inFlight chan struct{}
	releases chan wire.SnapshotID

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the client's goroutines
	active sync.WaitGroup // requests

	mu      sync.Mutex
	closed  bool          // mu
	link    *link         // mu: nil while there is none
	lastErr error         // mu: why there is none
	changed chan struct{} // mu: closed and replaced when link changes
}

// link is one connection and the history behind it.
type link struct {
	*rpc.Conn
	history store.HistoryID
}

var _ store.Engine = (*Client)(nil)

// New begins to connect and does not wait for it. The client lives until Close, whatever becomes of ctx.
func New(ctx context.Context, o Options) *Client {
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 1024
	}
	for field, value := range map[*time.Duration]time.Duration{
		&o.RetryFor: 30 * time.Second, &o.DialTimeout: 5 * time.Second, &o.BackoffMax: time.Second,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	c := &Client{o: o, inFlight: make(chan struct{}, o.MaxInFlight), releases: make(chan wire.SnapshotID, 4*wire.MaxReleases),
		changed: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.wg.Go(c.connect)
	c.wg.Go(c.release)
	return c
}

// connect keeps a connection until Close.
func (c *Client) connect() {
	backoff := backoffMin
	for c.ctx.Err() == nil {
		l, err := c.dial()
		c.publish(l, err)
		if err == nil {
			backoff = backoffMin
			select {
			case <-l.Done():
			case <-c.ctx.Done():
				l.Close()
			}
			c.publish(nil, l.Err())
		}
		select { // a pause also after success: a server may end every connection at once
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-c.ctx.Done():
		}
		backoff = min(2*backoff, c.o.BackoffMax)
	}
}

func (c *Client) dial() (*link, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.DialTimeout)
	defer cancel()
	nc, err := c.o.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := rpc.Client(ctx, nc, rpc.Options{Agent: "nimbrel store", HelloTimeout: c.o.DialTimeout})
	if err != nil {
		return nil, err
	}
	var w *wire.Welcome
	body, err := conn.Call(ctx, wire.MethodHello, wire.Encode(wire.Hello{Version: wire.Version}))
	if err == nil {
		w, err = wire.Decode[wire.Welcome](body)
	}
	if err != nil {
		conn.Close()
		return nil, local(err)
	}
	return &link{conn, w.History}, nil
}

func (c *Client) publish(l *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.lastErr = l, err
	close(c.changed)
	c.changed = make(chan struct{})
}

// connection waits for one until ctx ends.
func (c *Client) connection(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, err, changed := c.link, c.lastErr, c.changed
		c.mu.Unlock()
		if l != nil && l.Err() == nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return nil, store.ErrClosed
		case <-ctx.Done():
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			return nil, ctx.Err()
		}
	}
}

// begin counts a request in; end must follow.
func (c *Client) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return store.ErrClosed
	}
	c.active.Add(1)
	c.mu.Unlock()
	select {
	case c.inFlight <- struct{}{}:
		return nil
	case <-ctx.Done():
		c.active.Done()
		return ctx.Err()
	}
}

func (c *Client) end() {
	<-c.inFlight
	c.active.Done()
}

// closeTimeout bounds how long Close waits for what is under way.
const closeTimeout = 5 * time.Second

// Close waits for requests under way, for a few seconds, and ends the connection. Snapshots and feeds end with it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	connected := c.link != nil
	c.mu.Unlock()
	idle := make(chan struct{})
	go func() { c.active.Wait(); close(idle) }()
	if connected {
		select {
		case <-idle:
		case <-time.After(closeTimeout):
		}
	}
	c.cancel()
	c.wg.Wait()
	<-idle
	return nil
}

// local gives an error from the other end its meaning back.
func local(err error) error {
	var e *rpc.Error
	if !errors.As(err, &e) || e.Code < 1000 {
		return err
	}
	return wire.ErrorOf(uint32(e.Code), e.Message)
}
