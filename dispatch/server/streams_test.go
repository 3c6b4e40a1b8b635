package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/dispatch/server"
	"github.com/nimbrel/nimbrel/rpc"
)

// echoTo answers who opened the stream and its header, then whatever comes.
func echoTo(_ context.Context, target string, s net.Conn, header []byte) error {
	if _, err := s.Write(append([]byte(target+","), header...)); err != nil {
		return err
	}
	_, err := io.Copy(s, s)
	return err
}

// waitFor serves a stream until ctx ends or the target closes it.
func waitFor(_ context.Context, _ string, s net.Conn, _ []byte) error {
	if _, err := s.Write([]byte("!")); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, s)
	return err
}

// serving is a cluster that serves streams to the one connected target it returns.
func serving(t *testing.T, most int, streams map[string]server.StreamHandler) (*cluster, *agent) {
	t.Helper()
	c := newCluster(t)
	c.options.Streams, c.options.MaxTargetStreams = streams, most
	c.start()
	a := c.agent(c.join("host/h-1"), nil)
	eventually(t, "connected", func() bool { return a.Status().Connected })
	return c, a
}

func TestTargetOpensStreams(t *testing.T) {
	refused := &rpc.Error{Code: 1234, Message: "not today"}
	c, a := serving(t, 0, map[string]server.StreamHandler{
		"echo":  echoTo,
		"never": func(context.Context, string, net.Conn, []byte) error { return refused },
	})
	s, err := a.OpenStream(t.Context(), "echo", []byte("header,"))
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 1<<20) // more than the windows of both directions
	rand.Read(sent)
	go func() {
		s.Write(sent)
		s.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, append([]byte("host/h-1,header,"), sent...)) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	s.Close()
	if _, err := a.OpenStream(t.Context(), "other", nil); !errors.Is(err, dispatch.ErrUnknownStream) {
		t.Errorf("unknown stream: %v", err)
	}
	if _, err := a.OpenStream(t.Context(), "session", nil); err == nil {
		t.Error("a second session on the connection was opened as a stream")
	}
	var answer *rpc.Error
	if _, err := a.OpenStream(t.Context(), "never", nil); !errors.As(err, &answer) || *answer != *refused {
		t.Errorf("refused stream: %v", err)
	}
	for _, name := range []string{"", "two words", strings.Repeat("x", dispatch.MaxStreamName+1)} {
		if _, err := a.OpenStream(t.Context(), name, nil); err == nil || errors.Is(err, dispatch.ErrUnknownStream) {
			t.Errorf("name %q: %v, want it refused at once", name, err)
		}
	}
	if _, err := a.OpenStream(t.Context(), "echo", make([]byte, dispatch.MaxStreamHeader+1)); err == nil {
		t.Error("a header beyond the limit was accepted")
	}
	c.stop()
	eventually(t, "disconnected", func() bool { return !a.Status().Connected })
	if _, err := a.OpenStream(t.Context(), "echo", nil); !errors.Is(err, dispatch.ErrNotConnected) {
		t.Errorf("without a server: %v", err)
	}
}

// TestStreamsEndWithTheServer holds that a server that stops leaves no handler behind, and that the target is told.
func TestStreamsEndWithTheServer(t *testing.T) {
	ended := make(chan struct{})
	c, a := serving(t, 0, map[string]server.StreamHandler{"wait": func(ctx context.Context, target string, s net.Conn, header []byte) error {
		defer close(ended)
		err := waitFor(ctx, target, s, header)
		time.Sleep(50 * time.Millisecond) // longer than a server that did not wait would take to stop
		return err
	}})
	s, err := a.OpenStream(t.Context(), "wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.stop()
	select {
	case <-ended:
	default:
		t.Error("the server stopped before its handler")
	}
	if _, err := io.Copy(io.Discard, s); err == nil {
		t.Error("a stream of a server that stopped ended as if it were whole")
	}
}

func TestStreamsOfATargetAreBounded(t *testing.T) {
	const most = 3
	_, a := serving(t, most, map[string]server.StreamHandler{"wait": waitFor})
	open := make([]net.Conn, most)
	for i := range open {
		var err error
		if open[i], err = a.OpenStream(t.Context(), "wait", nil); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	var answer *rpc.Error
	if _, err := a.OpenStream(t.Context(), "wait", nil); !errors.As(err, &answer) || answer.Code != rpc.CodeOverloaded {
		t.Fatalf("stream beyond the limit: %v", err)
	}
	open[0].Close()
	eventually(t, "place for another", func() bool {
		s, err := a.OpenStream(t.Context(), "wait", nil)
		return err == nil && s != nil
	})
	if !a.Status().Connected {
		t.Error("the session ended over a refused stream")
	}
}

// TestStreamNeedsASession holds that a certificate alone opens nothing: the bound is on the target that has the session.
func TestStreamNeedsASession(t *testing.T) {
	c := newCluster(t)
	c.options.Streams = map[string]server.StreamHandler{"echo": echoTo}
	c.start()
	dir := c.join("host/h-1")
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	try := func() error {
		nc, err := id.Dial(c.addr)(t.Context())
		if err != nil {
			return err
		}
		conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.OpenStream(t.Context(), "echo", nil)
		return err
	}
	var answer *rpc.Error
	if err := try(); !errors.As(err, &answer) || answer.Code != rpc.CodeDenied {
		t.Errorf("before any session: %v", err)
	}
	a := c.agent(dir, nil)
	eventually(t, "connected", func() bool { return a.Status().Connected })
	if err := try(); !errors.As(err, &answer) || answer.Code != rpc.CodeDenied {
		t.Errorf("beside the session's connection: %v", err)
	}
}

func TestStreamOptions(t *testing.T) {
	for name, streams := range map[string]map[string]server.StreamHandler{
		"no name":    {"": echoTo},
		"long":       {strings.Repeat("x", dispatch.MaxStreamName+1): echoTo},
		"session":    {"session": echoTo},
		"no handler": {"echo": nil},
	} {
		if err := (server.Options{Plain: true, Streams: streams}).Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := (server.Options{Plain: true, Streams: map[string]server.StreamHandler{"echo": echoTo}}).Validate(); err != nil {
		t.Error(err)
	}
}
