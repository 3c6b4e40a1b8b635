package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const instance = "i-0123456789abcdef0"

// echoServer serves streams whose far end echoes until end of input, then says how much it saw.
func echoServer(t *testing.T, failure error) (dial func(context.Context) (net.Conn, error), seen chan Request) {
	t.Helper()
	seen = make(chan Request, 8)
	open := func(_ context.Context, _ Request) (io.ReadWriteCloser, error) {
		if failure != nil {
			return nil, failure
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		go func() {
			defer l.Close()
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = io.Copy(c, c)
			_, _ = io.WriteString(c, "bye")
		}()
		return net.Dial("tcp", l.Addr().String())
	}
	server := httptest.NewServer(Handler(open, func(_ *http.Request, r Request) { seen <- r }))
	t.Cleanup(server.Close)
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}, seen
}

func TestHalfCloseStillGetsTheAnswer(t *testing.T) {
	dial, seen := echoServer(t, nil)
	want := Request{Kind: Dial, Instance: instance, Port: 22}
	c, err := Open(t.Context(), dial, want)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-seen; got != want {
		t.Errorf("server saw %+v, want %+v", got, want)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	text := strings.Repeat("0123456789", 100_000)
	go func() {
		_, _ = io.WriteString(c, text)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != text+"bye" {
		t.Fatalf("read %d bytes, %v, want %d", len(got), err, len(text)+3)
	}
}

func TestErrorsReachTheCaller(t *testing.T) {
	dial, _ := echoServer(t, errors.New("host h-1 is not connected"))
	_, err := Open(t.Context(), dial, Request{Kind: Console, Instance: instance})
	if err == nil || !strings.Contains(err.Error(), "host h-1 is not connected") {
		t.Errorf("far end's error: %v", err)
	}
	for _, bad := range []Request{
		{Kind: "shell", Instance: instance},
		{Kind: Dial, Instance: instance},
		{Kind: Dial, Instance: "vpc-0123456789abcdef0", Port: 22},
		{Kind: Console, Instance: instance, TailBytes: -1},
	} {
		if c, err := Open(t.Context(), dial, bad); err == nil {
			_ = c.Close()
			t.Errorf("%+v was opened", bad)
		}
	}
}
