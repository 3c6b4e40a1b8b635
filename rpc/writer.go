package rpc

import (
	"errors"
	"net"
	"sync"
	"time"
)

// errBacklog ends a connection whose peer makes this end answer faster than it reads the answers.
var errBacklog = errors.New("peer does not read: too many bytes wait to be written")

// lingerTimeout bounds the last write of a connection that is being closed.
const lingerTimeout = 2 * time.Second

// writer queues frames and writes what is queued in one go. One goroutine runs flush.
type writer struct {
	nc      net.Conn
	limit   int           // senders wait beyond this
	timeout time.Duration // of one write

	mu     sync.Mutex
	queue  []byte
	spare  []byte        // the buffer that is not being filled, for reuse
	err    error         // set once; nothing is queued after
	room   chan struct{} // closed and replaced when the queue was taken
	wake   chan struct{} // capacity 1
	closed chan struct{}
}

func newWriter(nc net.Conn, limit int, timeout time.Duration) *writer {
	return &writer{nc: nc, limit: limit, timeout: timeout, room: make(chan struct{}), wake: make(chan struct{}, 1), closed: make(chan struct{})}
}

// send queues a frame and waits while the queue is over its limit, until cancel is closed. A frame is queued whole or
// not at all; ok tells which when cancelled.
func (w *writer) send(f *frame, cancel <-chan struct{}) (ok bool, err error) {
	for {
		w.mu.Lock()
		if w.err != nil {
			defer w.mu.Unlock()
			return false, w.err
		}
		if len(w.queue) < w.limit {
			w.push(f)
			w.mu.Unlock()
			return true, nil
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-w.closed:
		case <-cancel:
			return false, nil
		}
	}
}

// control queues a frame without waiting, for the reader and for credit. Beyond four times the limit the peer is the
// one who does not read, and the connection fails.
func (w *writer) control(f *frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if len(w.queue) > 4*w.limit {
		return errBacklog
	}
	w.push(f)
	return nil
}

// push needs mu.
func (w *writer) push(f *frame) {
	w.queue = appendFrame(w.queue, f)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// flush writes until stop; it returns the first write error. Frames queued before stop are still written.
func (w *writer) flush() error {
	for {
		select {
		case <-w.wake:
		case <-w.closed:
			return w.writeQueued()
		}
		if err := w.writeQueued(); err != nil {
			return err
		}
	}
}

func (w *writer) writeQueued() error {
	w.mu.Lock()
	out, timeout := w.queue, w.timeout
	w.queue, w.spare = w.spare[:0], nil
	close(w.room)
	w.room = make(chan struct{})
	w.mu.Unlock()
	if len(out) > 0 {
		if err := w.nc.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := w.nc.Write(out); err != nil {
			return err
		}
	}
	if cap(out) <= 2*w.limit { // a burst's buffer is not kept
		w.mu.Lock()
		w.spare = out[:0]
		w.mu.Unlock()
	}
	return nil
}

// stop makes every sender fail with err and flush return.
func (w *writer) stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.timeout = min(w.timeout, lingerTimeout)
		_ = w.nc.SetWriteDeadline(time.Now().Add(w.timeout)) // for a write that waits now
		close(w.closed)
	}
}
