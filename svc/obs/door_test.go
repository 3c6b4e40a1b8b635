package obs

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// fixture is a door in use: /prove is a request with a credential, /wait is one that takes its time.
type fixture struct {
	t       *testing.T
	door    *Door
	address string
	entered chan struct{}
	letGo   chan struct{}
}

func openDoor(t *testing.T, connections int) *fixture {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, door: NewDoor(DoorOptions{Connections: connections}), address: l.Addr().String(), entered: make(chan struct{}), letGo: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.door.Serve(ctx, l, f) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if r.URL.Path != "/strange" {
		Proven(r.Context())
	}
	if r.URL.Path == "/wait" {
		f.entered <- struct{}{}
		<-f.letGo
	}
	_, _ = io.WriteString(w, "ok")
}

func (f *fixture) dial() net.Conn {
	f.t.Helper()
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// silent opens a connection and waits until the door has it, so that connections have an order.
func (f *fixture) silent() net.Conn {
	f.t.Helper()
	before := f.door.Stats()
	c := f.dial()
	f.until(func(s DoorStats) bool {
		return s.Open > before.Open || s.Evicted > before.Evicted || s.Refused > before.Refused
	})
	return c
}

func (f *fixture) until(holds func(DoorStats) bool) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); !holds(f.door.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("stays %+v", f.door.Stats())
		}
	}
}

// idle counts those at no work.
func (f *fixture) idle() (n int) {
	f.door.mu.Lock()
	defer f.door.mu.Unlock()
	for _, c := range f.door.conns {
		if !c.works {
			n++
		}
	}
	return n
}

func (f *fixture) newest() (since time.Time) {
	f.door.mu.Lock()
	defer f.door.mu.Unlock()
	for _, c := range f.door.conns {
		if c.since.After(since) {
			since = c.since
		}
	}
	return since
}

func (f *fixture) ask(c net.Conn, path string) error {
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
	}
	return err
}

func (f *fixture) closed(c net.Conn) bool {
	_, err := c.Read(make([]byte, 1)) // ends when the other side closes
	return err == io.EOF
}

// TestStrangersKeepOutStrangersOnly fills a door with connections that say nothing, or nothing proven: who has shown a
// credential stays, who comes is served.
func TestStrangersKeepOutStrangersOnly(t *testing.T) {
	f := openDoor(t, 4)
	known := f.silent()
	if err := f.ask(known, "/prove"); err != nil {
		t.Fatal(err)
	}
	talker := f.silent()
	if err := f.ask(talker, "/strange"); err != nil {
		t.Fatal(err)
	}
	half := f.silent()
	if _, err := io.WriteString(half, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	f.silent()
	first := f.silent()
	if !f.closed(talker) {
		t.Error("the oldest stranger is still there")
	}
	for range 20 {
		f.silent()
	}
	if !f.closed(half) || !f.closed(first) {
		t.Error("an older stranger is still there")
	}
	if err := f.ask(f.silent(), "/prove"); err != nil {
		t.Errorf("a newcomer among silent strangers: %v", err)
	}
	if err := f.ask(known, "/prove"); err != nil {
		t.Errorf("the known one: %v", err)
	}
	if s := f.door.Stats(); s.Open != 4 || s.Refused != 0 || s.Evicted != 22 {
		t.Errorf("got %+v", s)
	}
}

// TestWorkIsNotEvicted fills a door with known ones: the longest idle makes room, and when all work the newcomer is told.
func TestWorkIsNotEvicted(t *testing.T) {
	f := openDoor(t, 2)
	a, b := f.silent(), f.silent()
	for _, c := range []net.Conn{a, b} {
		if err := f.ask(c, "/prove"); err != nil {
			t.Fatal(err)
		}
	}
	f.until(func(DoorStats) bool { return f.idle() == 2 }) // the server notes it after its answer
	answers := make(chan error, 2)
	work := func(c net.Conn) {
		go func() { answers <- f.ask(c, "/wait") }()
		<-f.entered
	}
	work(b)
	c := f.silent()
	if !f.closed(a) {
		t.Error("the idle one is still there")
	}
	work(c)
	if d := f.silent(); !f.closed(d) {
		t.Error("a third is let in while two work")
	}
	close(f.letGo)
	for range 2 {
		if err := <-answers; err != nil {
			t.Errorf("work was cut off: %v", err)
		}
	}
	if s := f.door.Stats(); s.Refused != 1 || s.Evicted != 1 {
		t.Errorf("got %+v", s)
	}
}

// TestSlowRequestsMakeRoom holds that who has a credential cannot keep others out with requests that never end.
func TestSlowRequestsMakeRoom(t *testing.T) {
	f := openDoor(t, 3)
	slow := []net.Conn{f.silent(), f.silent(), f.silent()}
	for _, c := range slow {
		if err := f.ask(c, "/prove"); err != nil {
			t.Fatal(err)
		}
	}
	f.until(func(DoorStats) bool { return f.idle() == len(slow) })
	idleSince := f.newest()
	for _, c := range slow {
		if _, err := io.WriteString(c, "POST /prove HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun"); err != nil {
			t.Fatal(err)
		}
		f.until(func(DoorStats) bool { return f.newest().After(idleSince) }) // the door has noted that something comes
		idleSince = f.newest()
	}
	if err := f.ask(f.silent(), "/prove"); err != nil {
		t.Errorf("a newcomer among slow ones: %v", err)
	}
	if s := f.door.Stats(); s.Open != 3 || s.Refused != 0 || s.Evicted != 1 {
		t.Errorf("got %+v", s)
	}
}
