package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// wait is how long a test waits for what must happen; generous, since machines are shared.
const wait = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

// pair connects two ends over loopback TCP.
func pair(t *testing.T, client, server Options) (*Conn, *Conn) {
	t.Helper()
	a, b := socketPair(t)
	ctx := testContext(t)
	var s *Conn
	var serr error
	done := make(chan struct{})
	go func() { defer close(done); s, serr = Server(ctx, b, server) }()
	c, err := Client(ctx, a, client)
	<-done
	if err != nil || serr != nil {
		t.Fatalf("connect: %v, %v", err, serr)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

func socketPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

type handler struct {
	request func(ctx context.Context, method uint32, body []byte) ([]byte, error)
	oneway  func(method uint32, body []byte)
	stream  func(ctx context.Context, s *Stream) error
}

func (h handler) ServeRequest(ctx context.Context, _ *Conn, method uint32, body []byte) ([]byte, error) {
	if h.request == nil {
		return nil, &Error{CodeUnknownMethod, "none"}
	}
	return h.request(ctx, method, body)
}
func (h handler) ServeOneway(_ *Conn, method uint32, body []byte) { h.oneway(method, body) }
func (h handler) ServeStream(ctx context.Context, s *Stream) error {
	if h.stream == nil {
		return ErrUnknownStream
	}
	return h.stream(ctx, s)
}

func TestCallBothWays(t *testing.T) {
	echo := handler{request: func(_ context.Context, m uint32, body []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%d:%s", m, body), nil
	}}
	c, s := pair(t, Options{Handler: echo, Name: "left"}, Options{Handler: echo, Name: "right"})
	if c.Peer().Name != "right" || s.Peer().Name != "left" {
		t.Fatalf("peers %q, %q", c.Peer().Name, s.Peer().Name)
	}
	for i, end := range []*Conn{c, s} {
		got, err := end.Call(testContext(t), uint32(i), []byte("x"))
		if err != nil || string(got) != fmt.Sprintf("%d:x", i) {
			t.Fatalf("call %d = %q, %v", i, got, err)
		}
		if _, err := end.Ping(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrorKeepsItsCode(t *testing.T) {
	h := handler{request: func(_ context.Context, m uint32, _ []byte) ([]byte, error) {
		if m == 1 {
			return nil, fmt.Errorf("open vault: %w", &Error{1001, "locked"})
		}
		return nil, errors.New("plain")
	}}
	c, _ := pair(t, Options{}, Options{Handler: h})
	var e *Error
	if _, err := c.Call(testContext(t), 1, nil); !errors.As(err, &e) || e.Code != 1001 || !strings.Contains(e.Message, "open vault") {
		t.Fatalf("err = %v", err)
	}
	if _, err := c.Call(testContext(t), 2, nil); !errors.As(err, &e) || e.Code != CodeInternal || e.Message != "plain" {
		t.Fatalf("err = %v", err)
	}
}

func TestCancelAndDeadlineReachTheHandler(t *testing.T) {
	started, ended := make(chan time.Duration, 1), make(chan error, 1)
	h := handler{request: func(ctx context.Context, _ uint32, _ []byte) ([]byte, error) {
		d, _ := ctx.Deadline()
		started <- time.Until(d)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	c, _ := pair(t, Options{}, Options{Handler: h})
	ctx, cancel := context.WithTimeout(testContext(t), time.Hour)
	result := make(chan error, 1)
	go func() { _, err := c.Call(ctx, 1, nil); result <- err }()
	if left := <-started; left <= 0 || left > wait+time.Second {
		t.Fatalf("handler had %v left, the caller %v", left, wait)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("call ended with %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("handler ended with %v", err)
	}
}

func TestOnewayOrder(t *testing.T) {
	got := make(chan uint32, 1000)
	c, _ := pair(t, Options{}, Options{Handler: handler{oneway: func(m uint32, _ []byte) { got <- m }}, MaxOneways: 1000})
	for i := range uint32(1000) {
		if err := c.Send(testContext(t), i, []byte("body")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint32(1000) {
		if m := <-got; m != i {
			t.Fatalf("message %d came as %d", m, i)
		}
	}
}

func TestOnewayFloodEndsTheConnection(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	c, s := pair(t, Options{}, Options{Handler: handler{oneway: func(uint32, []byte) { <-block }}, MaxOneways: 4})
	for range 100 {
		if c.Send(testContext(t), 1, nil) != nil {
			break
		}
	}
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "one-way") {
		t.Fatalf("connection ended with %v", err)
	}
}

func TestRequestBoundRefuses(t *testing.T) {
	release, running := make(chan struct{}), make(chan struct{}, 2)
	h := handler{request: func(context.Context, uint32, []byte) ([]byte, error) {
		running <- struct{}{}
		<-release
		return nil, nil
	}}
	c, _ := pair(t, Options{}, Options{Handler: h, MaxRequests: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := c.Call(testContext(t), 1, nil); err != nil {
				t.Error(err)
			}
		})
	}
	<-running
	<-running
	var e *Error
	if _, err := c.Call(testContext(t), 1, nil); !errors.As(err, &e) || e.Code != CodeOverloaded {
		t.Fatalf("third call: %v", err)
	}
	close(release)
	wg.Wait()
}

func TestDrain(t *testing.T) {
	release, running := make(chan struct{}), make(chan struct{})
	h := handler{request: func(context.Context, uint32, []byte) ([]byte, error) {
		close(running)
		<-release
		return []byte("finished"), nil
	}}
	c, s := pair(t, Options{}, Options{Handler: h})
	answer := make(chan string, 1)
	go func() { b, _ := c.Call(testContext(t), 1, nil); answer <- string(b) }()
	<-running
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(testContext(t)) }()
	var e *Error
	for { // until the drain arrived the handler would be entered twice and panic
		s.mu.Lock()
		on := s.draining
		s.mu.Unlock()
		if on {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := c.Call(testContext(t), 2, nil); !errors.As(err, &e) || e.Code != CodeDraining {
		t.Fatalf("call while draining: %v", err)
	}
	close(release)
	if got := <-answer; got != "finished" {
		t.Fatalf("request in service got %q", got)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

func TestStreamEchoesBeyondItsWindow(t *testing.T) {
	h := handler{stream: func(_ context.Context, s *Stream) error {
		if s.Name() != "echo" || string(s.Header()) != "head" {
			return fmt.Errorf("opened as %q with %q", s.Name(), s.Header())
		}
		_, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
		return err
	}}
	c, s := pair(t, Options{StreamWindow: 8 << 10}, Options{Handler: h, StreamWindow: 8 << 10})
	st, err := c.OpenStream(testContext(t), "echo", []byte("head"))
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 1<<20)
	rand.Read(sent)
	go func() { st.Write(sent); st.CloseWrite() }()
	got, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	st.Close()
	for _, end := range []*Conn{c, s} { // both tables are empty again
		for deadline := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
			end.mu.Lock()
			n, peers := len(end.streams), end.peerStreams
			end.mu.Unlock()
			if n == 0 && peers == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d streams and %d of the peer left", n, peers)
			}
		}
	}
}

// A handler that writes and ends before the opener has looked must not make the opening fail.
func TestStreamOfAHastyHandler(t *testing.T) {
	h := handler{stream: func(_ context.Context, s *Stream) error {
		_, err := s.Write([]byte("all there is"))
		return err
	}}
	c, _ := pair(t, Options{}, Options{Handler: h})
	for range 300 {
		st, err := c.OpenStream(testContext(t), "console", nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(st)
		if err != nil || string(got) != "all there is" {
			t.Fatalf("read %q, %v", got, err)
		}
		st.Close()
	}
}

// A handler that has not answered yet is told when the opener stops waiting.
func TestStreamOpenerGoesAway(t *testing.T) {
	serving, told := make(chan struct{}), make(chan error, 1)
	h := handler{stream: func(ctx context.Context, _ *Stream) error {
		close(serving)
		<-ctx.Done()
		told <- ctx.Err()
		return ctx.Err()
	}}
	c, _ := pair(t, Options{}, Options{Handler: h})
	ctx, cancel := context.WithCancel(testContext(t))
	opened := make(chan error, 1)
	go func() {
		_, err := c.OpenStream(ctx, "dial", nil)
		opened <- err
	}()
	<-serving
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
	select {
	case <-told:
	case <-time.After(wait):
		t.Fatal("the handler goes on for nobody")
	}
}

func TestStreamCreditStopsTheWriter(t *testing.T) {
	const window = 16 << 10
	readNow := make(chan struct{})
	h := handler{stream: func(_ context.Context, s *Stream) error {
		s.Accept()
		<-readNow
		_, err := io.Copy(io.Discard, struct{ io.Reader }{s})
		return err
	}}
	c, _ := pair(t, Options{}, Options{Handler: h, StreamWindow: window})
	st, err := c.OpenStream(testContext(t), "slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	st.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := st.Write(make([]byte, 10*window))
	if n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d of a window of %d, %v", n, window, err)
	}
	if _, err := c.Ping(testContext(t)); err != nil { // a stalled stream does not stall the connection
		t.Fatal(err)
	}
	close(readNow)
	st.SetWriteDeadline(time.Now().Add(wait))
	if n, err := st.Write(make([]byte, 10*window)); err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	st.Close()
}

func TestStreamRefusals(t *testing.T) {
	hold := make(chan struct{})
	h := handler{stream: func(_ context.Context, s *Stream) error {
		switch s.Name() {
		case "hold":
			s.Accept()
			<-hold
			return nil
		case "broken":
			return &Error{CodeDenied, "not for you"}
		}
		return ErrUnknownStream
	}}
	c, _ := pair(t, Options{}, Options{Handler: h, MaxStreams: 1})
	if _, err := c.OpenStream(testContext(t), "nothing", nil); !errors.Is(err, ErrUnknownStream) {
		t.Fatalf("unknown stream: %v", err)
	}
	var e *Error
	if _, err := c.OpenStream(testContext(t), "broken", nil); !errors.As(err, &e) || e.Code != CodeDenied {
		t.Fatalf("denied stream: %v", err)
	}
	first, err := c.OpenStream(testContext(t), "hold", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.OpenStream(testContext(t), "hold", nil); !errors.As(err, &e) || e.Code != CodeOverloaded {
		t.Fatalf("second stream: %v", err)
	}
	close(hold)
	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read after the handler returned: %v", err)
	}
}

func TestStreamReadDeadline(t *testing.T) {
	h := handler{stream: func(ctx context.Context, s *Stream) error { s.Accept(); <-ctx.Done(); return nil }}
	c, s := pair(t, Options{}, Options{Handler: h})
	st, err := c.OpenStream(testContext(t), "quiet", nil)
	if err != nil {
		t.Fatal(err)
	}
	st.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	st.SetReadDeadline(time.Time{})
	failed := make(chan error, 1)
	go func() { _, err := st.Read(make([]byte, 1)); failed <- err }()
	s.Close()
	if err := <-failed; err == nil {
		t.Fatal("read went on after the connection")
	}
}

func TestPeerBeyondItsCreditLosesTheConnection(t *testing.T) {
	h := handler{stream: func(ctx context.Context, s *Stream) error { s.Accept(); <-ctx.Done(); return nil }}
	c, s := pair(t, Options{}, Options{Handler: h, StreamWindow: 1024})
	st, err := c.OpenStream(testContext(t), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.w.control(&frame{Type: frameStreamData, ID: st.id, Body: make([]byte, 1025)})
	<-s.Done()
	if !errors.Is(s.Err(), errFrame) {
		t.Fatalf("connection ended with %v", s.Err())
	}
}

func TestPendingCallsEndWithTheConnection(t *testing.T) {
	h := handler{request: func(ctx context.Context, _ uint32, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }}
	c, s := pair(t, Options{}, Options{Handler: h})
	result := make(chan error, 1)
	go func() { _, err := c.Call(testContext(t), 1, nil); result <- err }()
	for { // until it is being served
		s.mu.Lock()
		n := len(s.serving)
		s.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.nc.Close()
	if err := <-result; err == nil {
		t.Fatal("call succeeded")
	}
}

func TestDamagedHeaderIsRefusedBeforeItsLengthIsUsed(t *testing.T) {
	good := appendFrame(nil, &frame{Type: frameOneway, Body: []byte("hello")})
	for bit := range headerBytes * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		r := &countingReader{r: io.MultiReader(bytes.NewReader(bad), neverEnds{})}
		if _, err := readFrame(r, MaxBodyBytes); !errors.Is(err, errFrame) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
		// A flip in the body's checksum is found with the header too: that field is under the header's checksum.
		if r.n > headerBytes {
			t.Fatalf("bit %d flipped: %d bytes were read", bit, r.n)
		}
	}
}

func TestHonestHeaderWithTooLargeBody(t *testing.T) {
	h := appendFrame(nil, &frame{Type: frameOneway})
	binary.LittleEndian.PutUint32(h, 1<<31)
	binary.LittleEndian.PutUint32(h[28:], crc32.Checksum(h[:28], castagnoli))
	if _, err := readFrame(bytes.NewReader(h), MaxBodyBytes); !errors.Is(err, errFrame) || !strings.Contains(err.Error(), "limit") {
		t.Fatalf("err = %v", err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func FuzzReadFrame(f *testing.F) {
	f.Add(appendFrame(nil, &frame{Type: frameHello, Body: []byte{0xa0}}))
	f.Add(appendFrame(nil, &frame{Type: frameStreamOpen, ID: 3, Method: 4, Arg: 1 << 20, Body: []byte("echohead")}))
	f.Add(appendFrame(appendFrame(nil, &frame{Type: framePing, ID: 1}), &frame{Type: frameResponse, ID: 9, Arg: 1, Body: []byte("no")}))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			at := len(data) - r.Len()
			got, err := readFrame(r, 4096)
			if err != nil {
				return
			}
			if again := appendFrame(nil, &got); !bytes.Equal(again, data[at:len(data)-r.Len()]) {
				t.Fatalf("frame %+v does not encode to what it was read from", got)
			}
		}
	})
}

// FuzzTake drives the connection's state machine with frames that are well formed and otherwise arbitrary.
func FuzzTake(f *testing.F) {
	f.Add(appendFrame(nil, &frame{Type: frameStreamOpen, ID: 1, Method: 1, Arg: 100, Body: []byte("x")}))
	f.Add(appendFrame(nil, &frame{Type: frameRequest, ID: 1, Arg: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := net.Pipe()
		defer a.Close()
		go io.Copy(io.Discard, a)
		h := handler{
			request: func(context.Context, uint32, []byte) ([]byte, error) { return nil, nil },
			oneway:  func(uint32, []byte) {},
			stream:  func(_ context.Context, s *Stream) error { io.Copy(io.Discard, struct{ io.Reader }{s}); return nil },
		}
		c := newConn(t.Context(), b, Options{Handler: h}.withDefaults(), Peer{}, 2)
		go c.run(c.w.flush)
		defer func() { c.fail(ErrClosed); c.wg.Done(); c.wg.Wait() }()
		for r := bytes.NewReader(data); ; {
			var head [14]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return
			}
			fr := frame{Type: frameType(head[0]%byte(frameTypeEnd-1) + 1), Flags: uint16(head[1]), ID: uint64(head[2] % 8), Method: uint32(head[3]),
				Arg: binary.LittleEndian.Uint32(head[4:]), Body: make([]byte, int(head[8]))}
			if c.take(fr) != nil {
				return
			}
		}
	})
}
