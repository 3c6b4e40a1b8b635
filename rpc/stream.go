package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	maxStreamName   = 256
	maxStreamHeader = 64 << 10
	dataBytes       = 32 << 10 // most bytes of one data frame, so that streams take turns

	// flagStop on a reset: the sender reads no more, but what it wrote is whole.
	flagStop = 1
)

const codeUnknownStream = 100 // status of a reset; not a Code, it never reaches a caller

// Stream is a two-way byte stream over a connection; it implements net.Conn. Close ends both directions; what was
// written before still arrives. A write waits until the peer has room for it.
type Stream struct {
	c      *Conn
	id     uint64
	ours   bool // opened by this end
	name   string
	header []byte

	served context.CancelFunc // ends the handler's context; nil at the end that opened

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change of what follows
	ready    bool          // the peer serves it, or this end accepted it
	in       [][]byte      // received, unread
	inBytes  int
	consumed int   // read since credit was last given
	credit   int   // bytes that may still be written
	readErr  error // after in is empty
	writeErr error
	inOver   bool // nothing more arrives
	outOver  bool // nothing more is sent
	readBy   deadline
	writeBy  deadline
}

var _ net.Conn = (*Stream)(nil)

// OpenStream opens a stream by name and waits until the peer's handler takes it. The errors that name a cause are
// ErrUnknownStream and *Error with CodeOverloaded or CodeDraining.
func (c *Conn) OpenStream(ctx context.Context, name string, header []byte) (*Stream, error) {
	if len(name) > maxStreamName || len(header) > maxStreamHeader || len(name)+len(header) > c.o.MaxBody {
		return nil, fmt.Errorf("open stream %.64q: %w: name of %d bytes, header of %d", name, ErrTooLarge, len(name), len(header))
	}
	c.mu.Lock()
	if c.ctx.Err() != nil || c.peerDraining {
		defer c.mu.Unlock()
		if c.peerDraining {
			return nil, &Error{CodeDraining, "peer is draining"}
		}
		return nil, c.Err()
	}
	s := newStream(c, c.newID(), name, header, true)
	c.streams[s.id] = s
	c.mu.Unlock()
	open := frame{Type: frameStreamOpen, ID: s.id, Method: uint32(len(name)), Arg: uint32(c.o.StreamWindow), Body: append([]byte(name), header...)}
	err := c.queue(ctx, &open)
	if err == nil {
		err = s.wait(ctx.Done(), func() (bool, error) {
			if s.ready {
				return true, nil // also when the handler has written and ended meanwhile
			}
			return false, s.writeErr
		})
	}
	if errors.Is(err, errCancelled) {
		err = ctx.Err()
	}
	if err != nil {
		s.reset(CodeInternal, "not wanted any more")
		return nil, fmt.Errorf("open stream %q: %w", name, err)
	}
	return s, nil
}

func newStream(c *Conn, id uint64, name string, header []byte, ours bool) *Stream {
	return &Stream{c: c, id: id, ours: ours, name: name, header: header, changed: make(chan struct{})}
}

// Name is the name it was opened by.
func (s *Stream) Name() string { return s.name }

// Header is what came with the name.
func (s *Stream) Header() []byte { return s.header }

// Conn is the connection underneath.
func (s *Stream) Conn() *Conn { return s.c }

// LocalAddr is the connection's.
func (s *Stream) LocalAddr() net.Addr { return s.c.nc.LocalAddr() }

// RemoteAddr is the connection's.
func (s *Stream) RemoteAddr() net.Addr { return s.c.nc.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads, also one that waits now.
func (s *Stream) SetReadDeadline(t time.Time) error { s.readBy.set(t); return nil }

// SetWriteDeadline bounds writes, also one that waits now.
func (s *Stream) SetWriteDeadline(t time.Time) error { s.writeBy.set(t); return nil }

// Accept tells the peer that the stream is served. Read and Write imply it.
func (s *Stream) Accept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready || s.ours {
		return nil
	}
	s.ready = true
	return s.c.w.control(&frame{Type: frameStreamReady, ID: s.id, Arg: uint32(s.c.o.StreamWindow)})
}

// errCancelled is what wait answers when its channel closed first.
var errCancelled = errors.New("cancelled")

// wait runs check under mu at every change until it is done or fails.
func (s *Stream) wait(cancel <-chan struct{}, check func() (bool, error)) error {
	for {
		s.mu.Lock()
		done, err := check()
		changed := s.changed
		s.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-cancel:
			return errCancelled
		}
	}
}

// signal needs mu.
func (s *Stream) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Read returns io.EOF after the peer's last byte.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.Accept(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	expired := s.readBy.done()
	if isClosed(expired) {
		return 0, os.ErrDeadlineExceeded
	}
	n := 0
	err := s.wait(expired, func() (bool, error) {
		if len(s.in) == 0 {
			return false, s.readErr
		}
		n = s.takeBuffered(p)
		return true, nil
	})
	if errors.Is(err, errCancelled) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// takeBuffered needs mu. It gives credit back in steps of half a window.
func (s *Stream) takeBuffered(p []byte) int {
	n := 0
	for n < len(p) && len(s.in) > 0 {
		k := copy(p[n:], s.in[0])
		n += k
		if s.in[0] = s.in[0][k:]; len(s.in[0]) == 0 {
			s.in = s.in[1:]
		}
	}
	s.inBytes -= n
	s.consumed += n
	if s.consumed >= s.c.o.StreamWindow/2 && !s.inOver {
		_ = s.c.w.control(&frame{Type: frameStreamCredit, ID: s.id, Arg: uint32(s.consumed)}) // fails with the connection
		s.consumed = 0
	}
	return n
}

// Write waits for the peer's credit. When it fails, n bytes were handed over.
func (s *Stream) Write(p []byte) (n int, err error) {
	if err := s.Accept(); err != nil {
		return 0, err
	}
	expired := s.writeBy.done()
	for n < len(p) {
		if isClosed(expired) {
			return n, os.ErrDeadlineExceeded
		}
		k := 0
		err := s.wait(expired, func() (bool, error) {
			if s.writeErr != nil {
				return false, s.writeErr
			}
			k = min(len(p)-n, s.credit, dataBytes)
			s.credit -= k
			return k > 0, nil
		})
		ok := false
		if err == nil {
			ok, err = s.c.w.send(&frame{Type: frameStreamData, ID: s.id, Body: p[n : n+k]}, expired)
		}
		if errors.Is(err, errCancelled) || (err == nil && !ok) {
			s.refund(k)
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// refund gives back credit that was reserved for bytes that were not sent.
func (s *Stream) refund(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit += n
	s.signal()
}

// CloseWrite ends this direction: the peer reads io.EOF after what was written.
func (s *Stream) CloseWrite() error {
	if err := s.Accept(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.outOver {
		s.mu.Unlock()
		return nil
	}
	s.outOver = true
	if s.writeErr == nil {
		s.writeErr = net.ErrClosed
	}
	s.signal()
	over := s.inOver
	s.mu.Unlock()
	err := s.c.w.control(&frame{Type: frameStreamEnd, ID: s.id})
	if over {
		s.c.forget(s)
	}
	return err
}

// Close ends both directions. It does not wait for the peer.
func (s *Stream) Close() error {
	if s.c.ctx.Err() != nil {
		s.abort(net.ErrClosed)
		return nil
	}
	err := s.CloseWrite()
	s.mu.Lock()
	stop := !s.inOver
	s.inOver, s.in, s.inBytes, s.readErr = true, nil, 0, net.ErrClosed
	s.signal()
	s.mu.Unlock()
	if stop {
		err = errors.Join(err, s.c.w.control(&frame{Type: frameStreamReset, Flags: flagStop, ID: s.id}))
	}
	s.c.forget(s)
	s.readBy.set(time.Time{})
	s.writeBy.set(time.Time{})
	return err
}

// reset ends both directions at once and tells the peer why.
func (s *Stream) reset(code Code, reason string) {
	_ = s.c.w.control(&frame{Type: frameStreamReset, ID: s.id, Arg: uint32(code), Body: []byte(reason)}) // fails with the connection
	s.abort(net.ErrClosed)
	s.c.forget(s)
}

// abort makes reads and writes fail, what was received unread included.
func (s *Stream) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inOver, s.outOver, s.in, s.inBytes = true, true, nil, 0
	s.giveUp()
	if s.readErr == nil {
		s.readErr = err
	}
	if s.writeErr == nil {
		s.writeErr = err
	}
	s.signal()
}

// giveUp tells the handler that nobody waits for it any more.
func (s *Stream) giveUp() {
	if s.served != nil {
		s.served()
	}
}

// forget takes the stream out of the connection's table; frames that still come for it are dropped.
func (c *Conn) forget(s *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if !s.ours {
		c.peerStreams--
	}
}

// takeStream acts on one frame of a stream; it runs on the reader and never waits.
func (c *Conn) takeStream(f frame) error {
	if f.Type == frameStreamOpen {
		return c.takeOpen(f)
	}
	c.mu.Lock()
	s := c.streams[f.ID]
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	over, err := s.take(f)
	if over {
		c.forget(s)
	}
	return err
}

// take applies a frame; over tells that both directions have ended.
func (s *Stream) take(f frame) (over bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.Type {
	case frameStreamReady, frameStreamCredit:
		if s.credit += int(f.Arg); s.credit > 1<<30 {
			return false, fmt.Errorf("%w: stream %d was given credit without bound", errFrame, s.id)
		}
		s.ready = true
	case frameStreamData:
		if s.inOver {
			return false, nil // this end stopped reading: the peer did not know yet
		}
		if s.inBytes += len(f.Body); s.inBytes > s.c.o.StreamWindow {
			return false, fmt.Errorf("%w: stream %d went beyond its credit", errFrame, s.id)
		}
		if len(f.Body) > 0 {
			s.in = append(s.in, f.Body)
		}
	case frameStreamEnd:
		s.inOver = true
		if s.readErr == nil {
			s.readErr = io.EOF
		}
	case frameStreamReset:
		s.takeReset(f)
	}
	s.signal()
	return s.inOver && s.outOver, nil
}

// takeReset needs mu.
func (s *Stream) takeReset(f frame) {
	cause := error(&Error{Code(f.Arg), string(f.Body)})
	switch {
	case f.Flags&flagStop != 0:
		cause = io.ErrClosedPipe
	case f.Arg == codeUnknownStream:
		cause = ErrUnknownStream
	}
	if f.Flags&flagStop == 0 {
		s.giveUp()
		s.inOver, s.in, s.inBytes = true, nil, 0
		if s.readErr == nil {
			s.readErr = cause
		}
	}
	s.outOver = true
	if s.writeErr == nil {
		s.writeErr = cause
	}
}

// takeOpen starts the handler of a stream that the peer opens, or refuses it.
func (c *Conn) takeOpen(f frame) error {
	refuse := func(code Code, text string) error {
		return c.w.control(&frame{Type: frameStreamReset, ID: f.ID, Arg: uint32(code), Body: []byte(text)})
	}
	if int(f.Method) > min(len(f.Body), maxStreamName) {
		return fmt.Errorf("%w: stream name of %d bytes in %d", errFrame, f.Method, len(f.Body))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f.ID%2 == c.nextID%2 || c.streams[f.ID] != nil:
		return fmt.Errorf("%w: stream id %d is not the peer's to use", errFrame, f.ID)
	case c.draining:
		return refuse(CodeDraining, "draining")
	case c.peerStreams >= c.o.MaxStreams:
		return refuse(CodeOverloaded, "too many streams on this connection")
	}
	s := newStream(c, f.ID, string(f.Body[:f.Method]), f.Body[f.Method:], false)
	s.credit = int(f.Arg)
	ctx, cancel := context.WithCancel(c.ctx)
	s.served = cancel
	c.streams[s.id] = s
	c.peerStreams++
	c.active.Add(1)
	go c.serveStream(ctx, s)
	return nil
}

func (c *Conn) serveStream(ctx context.Context, s *Stream) {
	defer c.active.Done()
	defer s.served()
	err := c.o.Handler.ServeStream(ctx, s)
	switch {
	case err == nil:
		_ = s.Close()
	case errors.Is(err, ErrUnknownStream):
		s.reset(codeUnknownStream, "unknown stream")
	default:
		s.reset(codeOf(err), string(truncate(err)))
	}
}
