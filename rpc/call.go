package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Call sends a request and waits for its answer. The peer's handler learns how much of ctx's time is left, and is told
// when ctx ends first. An error of type *Error is the peer's answer; any other leaves open whether the request was
// served.
func (c *Conn) Call(ctx context.Context, method uint32, body []byte) ([]byte, error) {
	if len(body) > c.o.MaxBody {
		return nil, fmt.Errorf("call method %d: %w: %d bytes, limit %d", method, ErrTooLarge, len(body), c.o.MaxBody)
	}
	f := frame{Type: frameRequest, Method: method, Body: body}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, context.DeadlineExceeded
		}
		f.Arg = uint32(min(max(left.Milliseconds(), 1), math.MaxUint32))
	}
	answer, err := c.exchange(ctx, &f)
	if err != nil {
		return nil, err
	}
	if Code(answer.Arg) != CodeOK {
		return nil, &Error{Code(answer.Arg), string(answer.Body)}
	}
	return answer.Body, nil
}

// Ping measures a round trip through both ends' readers and writers; no handler is involved.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	_, err := c.exchange(ctx, &frame{Type: framePing})
	return time.Since(start), err
}

// Send queues a one-way message. It returns once the message is queued, which may wait for room; that it arrives is not
// promised.
func (c *Conn) Send(ctx context.Context, method uint32, body []byte) error {
	if len(body) > c.o.MaxBody {
		return fmt.Errorf("send method %d: %w: %d bytes, limit %d", method, ErrTooLarge, len(body), c.o.MaxBody)
	}
	return c.queue(ctx, &frame{Type: frameOneway, Method: method, Body: body})
}

func (c *Conn) queue(ctx context.Context, f *frame) error {
	ok, err := c.w.send(f, ctx.Done())
	if err == nil && !ok {
		err = ctx.Err()
	}
	return err
}

// exchange sends f under a fresh id and waits for the frame that answers it.
func (c *Conn) exchange(ctx context.Context, f *frame) (frame, error) {
	answer := make(chan frame, 1)
	c.mu.Lock()
	if c.peerDraining && f.Type == frameRequest {
		c.mu.Unlock()
		return frame{}, &Error{CodeDraining, "peer is draining"}
	}
	f.ID = c.newID()
	c.calls[f.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, f.ID)
		c.mu.Unlock()
	}()
	if err := c.queue(ctx, f); err != nil {
		return frame{}, err
	}
	select {
	case got := <-answer:
		return got, nil
	case <-ctx.Done():
		if f.Type == frameRequest {
			_ = c.w.control(&frame{Type: frameCancel, ID: f.ID}) // best effort: the deadline went along too
		}
		return frame{}, ctx.Err()
	case <-c.Done():
		return frame{}, c.Err()
	}
}

// newID needs mu. The end that dialled takes odd ids.
func (c *Conn) newID() uint64 {
	id := c.nextID
	c.nextID += 2
	return id
}

// takeAnswer drops answers to calls that were given up.
func (c *Conn) takeAnswer(f frame) {
	c.mu.Lock()
	answer := c.calls[f.ID]
	delete(c.calls, f.ID)
	c.mu.Unlock()
	if answer != nil {
		answer <- f // capacity 1, one answer: the entry is gone
	}
}

// takeRequest starts the handler, or refuses beyond the bound.
func (c *Conn) takeRequest(f frame) error {
	refuse := func(code Code, text string) error {
		return c.w.control(&frame{Type: frameResponse, ID: f.ID, Arg: uint32(code), Body: []byte(text)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.draining:
		return refuse(CodeDraining, "draining")
	case len(c.serving) >= c.o.MaxRequests:
		return refuse(CodeOverloaded, "too many requests being served on this connection")
	case len(f.Body) > c.o.MaxBody:
		return refuse(CodeInvalid, ErrTooLarge.Error())
	case c.serving[f.ID] != nil:
		return fmt.Errorf("%w: request id %d used twice", errFrame, f.ID)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	if f.Arg > 0 {
		ctx, cancel = context.WithTimeout(c.ctx, time.Duration(f.Arg)*time.Millisecond)
	}
	c.serving[f.ID] = cancel
	c.active.Add(1)
	go c.serve(ctx, f)
	return nil
}

func (c *Conn) serve(ctx context.Context, f frame) {
	defer c.active.Done()
	body, err := c.o.Handler.ServeRequest(ctx, c, f.Method, f.Body)
	c.mu.Lock()
	c.serving[f.ID]()
	delete(c.serving, f.ID)
	c.mu.Unlock()
	answer := frame{Type: frameResponse, ID: f.ID, Body: body}
	if err == nil && len(body) > c.o.MaxBody {
		err = fmt.Errorf("answer method %d: %w: %d bytes", f.Method, ErrTooLarge, len(body))
	}
	if err != nil {
		answer.Arg, answer.Body = uint32(codeOf(err)), truncate(err)
	}
	_, _ = c.w.send(&answer, nil) // fails only with the connection, which tells the caller
}

func codeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e) && e.Code != CodeOK:
		return e.Code
	case errors.Is(err, context.DeadlineExceeded):
		return CodeDeadline
	}
	return CodeInternal
}

// truncate is an error's text as it travels. An *Error's own text goes without its code, which travels beside it.
func truncate(err error) []byte {
	text := err.Error()
	if e, ok := err.(*Error); ok {
		text = e.Message
	}
	return []byte(text[:min(len(text), 1024)])
}
