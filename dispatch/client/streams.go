package client

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/internal/wire"
	"github.com/nimbrel/nimbrel/rpc"
)

// StreamHandler serves a stream that the server opens. The stream is closed when it returns; an error tells the server
// why. ctx ends with the connection.
type StreamHandler func(ctx context.Context, stream net.Conn, header []byte) error

// OpenStream opens a stream that the server serves, and waits until its handler takes it. The stream ends with the
// session: nothing is opened again here. The errors that name a cause are dispatch.ErrNotConnected,
// dispatch.ErrUnknownStream, and *rpc.Error, the handler's or rpc.CodeOverloaded when this target has too many open.
func (c *Client) OpenStream(ctx context.Context, name string, header []byte) (net.Conn, error) {
	if err := dispatch.ValidateStream(name, header); err != nil {
		return nil, fmt.Errorf("open stream to server: %w", err)
	}
	if name == wire.Stream {
		return nil, fmt.Errorf("open stream to server: the name %q is the session's own", name)
	}
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return nil, fmt.Errorf("open stream %q to server: %w", name, dispatch.ErrNotConnected)
	}
	stream, err := conn.OpenStream(ctx, name, header)
	switch {
	case errors.Is(err, rpc.ErrUnknownStream):
		err = dispatch.ErrUnknownStream
	case err != nil && conn.Err() != nil: // the session ended meanwhile, and is told so soon
		err = fmt.Errorf("%w: %w", dispatch.ErrNotConnected, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %q to server: %w", name, err)
	}
	return stream, nil
}

// streams serves what the server opens.
type streams struct{ c *Client }

func (streams) ServeRequest(context.Context, *rpc.Conn, uint32, []byte) ([]byte, error) {
	return nil, &rpc.Error{Code: rpc.CodeUnknownMethod, Message: "a target serves streams only"}
}

func (streams) ServeOneway(*rpc.Conn, uint32, []byte) {}

func (s streams) ServeStream(ctx context.Context, stream *rpc.Stream) error {
	serve := s.c.o.Streams[stream.Name()]
	if serve == nil || len(stream.Header()) > dispatch.MaxStreamHeader {
		return rpc.ErrUnknownStream
	}
	return serve(ctx, stream, stream.Header())
}
