package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// read calls a method that may be called again: it changes nothing but what the server holds for a while.
func read[A any](ctx context.Context, c *Client, method uint32, q any) (*A, error) {
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	defer c.end()
	body := wire.Encode(q)
	patience, cancel := context.WithTimeout(ctx, c.o.RetryFor)
	defer cancel()
	for pause := backoffMin; ; {
		l, err := c.connection(patience)
		if err != nil {
			return nil, c.unavailable(ctx, err)
		}
		out, err := l.Call(ctx, method, body)
		if err == nil {
			return wire.Decode[A](out)
		}
		again, later := retry(l, err)
		if !again || ctx.Err() != nil {
			return nil, local(err)
		}
		if patience.Err() != nil {
			return nil, c.unavailable(ctx, err)
		}
		if later {
			pause = c.pause(patience, pause)
		}
	}
}

// retry tells whether an error leaves a request to be sent again, and whether only after a pause. A server that drains is
// left for the next connection.
func retry(l *link, err error) (again, later bool) {
	var e *rpc.Error
	if !errors.As(err, &e) {
		return !errors.Is(err, rpc.ErrTooLarge), false // the connection broke
	}
	switch e.Code {
	case rpc.CodeDraining:
		l.Close()
		return true, true
	case rpc.CodeOverloaded:
		return true, true
	}
	return false, false
}

// pause waits and returns the next pause.
func (c *Client) pause(ctx context.Context, d time.Duration) time.Duration {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	return min(2*d, c.o.BackoffMax)
}

// unavailable is the error of an operation that found no server in its time. The caller's own deadline stays visible.
func (c *Client) unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w for %v: %w", ErrUnavailable, c.o.RetryFor, err)
}
