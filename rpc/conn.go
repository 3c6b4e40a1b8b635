package rpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Conn is a connection between two ends that may both call, send and open streams. It is safe for concurrent use.
type Conn struct {
	nc   net.Conn
	o    Options
	peer Peer
	w    *writer

	ctx    context.Context // ends with the connection
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // reader and flusher
	active sync.WaitGroup // handlers

	oneways chan frame

	mu           sync.Mutex
	nextID       uint64
	calls        map[uint64]chan frame // ours: requests and pings waiting for their answer
	serving      map[uint64]context.CancelFunc
	streams      map[uint64]*Stream
	peerStreams  int
	draining     bool // this end takes nothing new
	peerDraining bool
}

// Peer is the other end as the hello and the certificate describe it.
type Peer struct {
	Name        string            // the certificate's common name when there is one, else what the peer calls itself
	Agent       string            // the peer's build, as it says
	Certificate *x509.Certificate // nil without TLS or without a client certificate
	Addr        net.Addr
}

const maxHelloText = 512

type hello struct {
	Name       string `cbor:"1,keyasint"`
	Agent      string `cbor:"2,keyasint"`
	VersionMin int    `cbor:"3,keyasint"`
	VersionMax int    `cbor:"4,keyasint"`
	MaxBody    int    `cbor:"5,keyasint"`
}

// Client begins a connection as the end that dialled. It owns nc from here on, also when it fails. Over *tls.Conn it
// completes the handshake first.
func Client(ctx context.Context, nc net.Conn, o Options) (*Conn, error) {
	return begin(ctx, nc, o, 1)
}

// Server begins a connection as the end that accepted.
func Server(ctx context.Context, nc net.Conn, o Options) (*Conn, error) {
	return begin(ctx, nc, o, 2)
}

func begin(ctx context.Context, nc net.Conn, o Options, firstID uint64) (*Conn, error) {
	o = o.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, o.HelloTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	r := bufio.NewReaderSize(nc, 16<<10)
	peer, err := exchangeHello(ctx, nc, r, &o)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("begin connection with %v: %w", nc.RemoteAddr(), err)
	}
	c := newConn(ctx, nc, o, peer, firstID)
	go c.run(func() error { return c.read(r) })
	go c.run(c.w.flush)
	go c.serveOneways()
	return c, nil
}

// newConn makes a connection whose reader and flusher are still to be started.
func newConn(ctx context.Context, nc net.Conn, o Options, peer Peer, firstID uint64) *Conn {
	c := &Conn{nc: nc, o: o, peer: peer, w: newWriter(nc, o.QueueBytes, o.WriteTimeout), nextID: firstID,
		oneways: make(chan frame, o.MaxOneways), calls: map[uint64]chan frame{},
		serving: map[uint64]context.CancelFunc{}, streams: map[uint64]*Stream{}}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.wg.Add(2)
	return c
}

// exchangeHello completes TLS and settles version and limits. The two hellos cross.
func exchangeHello(ctx context.Context, nc net.Conn, r io.Reader, o *Options) (Peer, error) {
	peer := Peer{Addr: nc.RemoteAddr()}
	if tc, ok := nc.(*tls.Conn); ok {
		if err := tc.HandshakeContext(ctx); err != nil {
			return peer, fmt.Errorf("complete TLS handshake: %w", err)
		}
		if certs := tc.ConnectionState().PeerCertificates; len(certs) > 0 {
			peer.Certificate = certs[0]
		}
	}
	body, err := cbor.Marshal(hello{o.Name, o.Agent, Version, Version, o.MaxBody})
	if err != nil {
		return peer, err
	}
	sent := make(chan error, 1)
	go func() { // not inline: over an unbuffered pipe both ends write first
		_, err := nc.Write(appendFrame(nil, &frame{Type: frameHello, Body: body}))
		sent <- err
	}()
	h, err := readHello(r)
	if err != nil {
		nc.Close()
		<-sent
		return peer, err
	}
	if err := <-sent; err != nil {
		return peer, fmt.Errorf("send hello: %w", err)
	}
	peer.Name, peer.Agent = h.Name, h.Agent
	if peer.Certificate != nil {
		peer.Name = peer.Certificate.Subject.CommonName
	}
	o.MaxBody = min(o.MaxBody, h.MaxBody)
	return peer, nil
}

func readHello(r io.Reader) (hello, error) {
	var h hello
	f, err := readFrame(r, 4*maxHelloText)
	if err != nil {
		return h, fmt.Errorf("read hello: %w", err)
	}
	if f.Type != frameHello {
		return h, fmt.Errorf("read hello: %w: got frame type %d", errFrame, f.Type)
	}
	if err := cbor.Unmarshal(f.Body, &h); err != nil {
		return h, fmt.Errorf("decode hello: %w", err)
	}
	if h.VersionMin > Version || h.VersionMax < Version {
		return h, fmt.Errorf("peer speaks versions %d to %d, this end %d: upgrade the older end", h.VersionMin, h.VersionMax, Version)
	}
	if len(h.Name) > maxHelloText || len(h.Agent) > maxHelloText || h.MaxBody < 1024 {
		return h, fmt.Errorf("hello out of bounds: names of %d and %d bytes, body limit %d", len(h.Name), len(h.Agent), h.MaxBody)
	}
	return h, nil
}

// Peer tells who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// Done is closed when the connection is over; Err then tells why.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Err is nil while the connection lives.
func (c *Conn) Err() error { return context.Cause(c.ctx) }

// Close ends the connection and waits for its reader and writer, not for handlers. What was queued is still written, for
// at most lingerTimeout.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	c.wg.Wait()
	return nil
}

// Drain tells the peer to start nothing new here, refuses what it starts nevertheless, and waits until everything being
// served has ended or ctx is over. The connection stays open.
func (c *Conn) Drain(ctx context.Context) error {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	if err := c.w.control(&frame{Type: frameDrain}); err != nil {
		return err
	}
	idle := make(chan struct{})
	go func() { c.active.Wait(); close(idle) }()
	select {
	case <-idle:
		return nil
	case <-c.Done():
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the frame of the connection's own goroutines: the first that returns ends them all.
func (c *Conn) run(work func() error) {
	defer c.wg.Done()
	err := work()
	if err == nil || errors.Is(err, net.ErrClosed) {
		err = ErrClosed
	}
	c.fail(err)
}

// fail ends the connection with its first cause. Writing what is queued gets a moment; the socket is closed after.
func (c *Conn) fail(cause error) {
	c.mu.Lock()
	first := c.ctx.Err() == nil
	c.cancel(cause)
	streams := c.streams
	if first {
		c.streams = map[uint64]*Stream{}
	}
	c.mu.Unlock()
	if !first {
		return
	}
	for _, s := range streams {
		s.abort(cause)
	}
	c.w.stop(cause)
	c.nc.SetReadDeadline(time.Unix(1, 0))
	go func() {
		c.wg.Wait()
		c.nc.Close()
	}()
}

// read takes frames until the connection ends. It never waits for anything but the next frame.
func (c *Conn) read(r io.Reader) error {
	for {
		f, err := readFrame(r, MaxBodyBytes)
		if err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
		if err := c.take(f); err != nil {
			return err
		}
	}
}

// take acts on one frame; an error ends the connection.
func (c *Conn) take(f frame) error {
	switch f.Type {
	case frameRequest:
		return c.takeRequest(f)
	case frameResponse, framePong:
		c.takeAnswer(f)
	case frameOneway:
		select {
		case c.oneways <- f:
		default:
			return fmt.Errorf("peer sent more than %d one-way messages ahead of their handler", c.o.MaxOneways)
		}
	case frameCancel:
		c.mu.Lock()
		if cancel := c.serving[f.ID]; cancel != nil {
			cancel()
		}
		c.mu.Unlock()
	case framePing:
		return c.w.control(&frame{Type: framePong, ID: f.ID})
	case frameDrain:
		c.mu.Lock()
		c.peerDraining = true
		c.mu.Unlock()
	case frameHello:
		return fmt.Errorf("%w: second hello", errFrame)
	default:
		return c.takeStream(f)
	}
	return nil
}

func (c *Conn) serveOneways() {
	for {
		select {
		case f := <-c.oneways:
			c.o.Handler.ServeOneway(c, f.Method, f.Body)
		case <-c.Done():
			return
		}
	}
}
