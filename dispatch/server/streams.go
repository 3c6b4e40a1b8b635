package server

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/internal/wire"
	"github.com/nimbrel/nimbrel/rpc"
)

// StreamHandler serves a stream that a target opens. target is the name that its certificate proves; it has a session on
// the same connection. The stream is closed when the handler returns; an error tells the target why, and an *rpc.Error
// keeps its code. ctx ends with the connection, as reads and writes do, and the handler has to return then.
type StreamHandler func(ctx context.Context, target string, stream net.Conn, header []byte) error

func validateStreams(streams map[string]StreamHandler) error {
	for name, serve := range streams {
		if err := dispatch.ValidateStream(name, nil); err != nil {
			return err
		}
		if name == wire.Stream {
			return fmt.Errorf("stream name %q is the session's own", name)
		}
		if serve == nil {
			return fmt.Errorf("stream %q has no handler", name)
		}
	}
	return nil
}

// serveOpened serves a stream other than the session.
func (s *Server) serveOpened(ctx context.Context, stream *rpc.Stream) error {
	name := stream.Conn().Peer().Name
	serve := s.o.Streams[stream.Name()]
	if serve == nil {
		return rpc.ErrUnknownStream
	}
	if err := dispatch.ValidateStream(stream.Name(), stream.Header()); err != nil {
		return &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
	}
	t, err := s.admitStream(name, stream.Conn())
	if err != nil {
		return err
	}
	defer s.endStream(t)
	err = serve(ctx, name, stream, stream.Header())
	if err != nil && ctx.Err() == nil {
		s.o.Log.Info("stream failed", "target", name, "stream", stream.Name(), "err", err)
	}
	return err
}

// admitStream counts one more stream of the target whose session is on conn.
func (s *Server) admitStream(name string, conn *rpc.Conn) (*target, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.targets[name]
	switch {
	case s.closing:
		return nil, &rpc.Error{Code: rpc.CodeDraining, Message: "server is stopping"}
	case t == nil || t.live == nil || t.live.conn != conn:
		return nil, &rpc.Error{Code: rpc.CodeDenied, Message: "no session on this connection: a session comes first"}
	case t.streams >= s.o.MaxTargetStreams:
		return nil, &rpc.Error{Code: rpc.CodeOverloaded, Message: fmt.Sprintf("target has %d streams open: close one first", t.streams)}
	}
	t.streams++
	s.handlers.Add(1) // not after closing was set, so that Serve's wait has begun with all there will be
	return t, nil
}

func (s *Server) endStream(t *target) {
	s.mu.Lock()
	t.streams--
	s.mu.Unlock()
	s.handlers.Done()
}

// OpenStream opens a stream that a target serves. The errors that name a cause are dispatch.ErrNotConnected and
// dispatch.ErrUnknownStream.
func (s *Server) OpenStream(ctx context.Context, target, name string, header []byte) (net.Conn, error) {
	if err := dispatch.ValidateStream(name, header); err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", target, err)
	}
	s.mu.Lock()
	var conn *rpc.Conn
	if t := s.targets[target]; t != nil && t.live != nil {
		conn = t.live.conn
	}
	s.mu.Unlock()
	if conn == nil {
		return nil, fmt.Errorf("open stream %q to %s: %w", name, target, dispatch.ErrNotConnected)
	}
	stream, err := conn.OpenStream(ctx, name, header)
	if errors.Is(err, rpc.ErrUnknownStream) {
		err = dispatch.ErrUnknownStream
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %q to %s: %w", name, target, err)
	}
	return stream, nil
}
