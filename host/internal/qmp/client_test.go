package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`

// monitor is the other end of a client: a scripted QEMU.
type monitor struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Scanner
}

func newMonitor(t *testing.T) (*monitor, net.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return &monitor{t, ours, bufio.NewScanner(ours)}, theirs
}

func (m *monitor) say(format string, args ...any) { fmt.Fprintf(m.conn, format+"\r\n", args...) }

type command struct {
	Execute   string
	Arguments json.RawMessage
	ID        uint64
}

func (m *monitor) next() command {
	var c command
	if !m.lines.Scan() {
		m.t.Errorf("client sent nothing: %v", m.lines.Err())
		return c
	}
	if err := json.Unmarshal(m.lines.Bytes(), &c); err != nil {
		m.t.Errorf("client sent %q: %v", m.lines.Bytes(), err)
	}
	return c
}

func (m *monitor) negotiate() {
	m.say(greeting)
	c := m.next()
	if c.Execute != "qmp_capabilities" {
		m.t.Errorf("first command %q", c.Execute)
	}
	m.say(`{"return": {}, "id": %d}`, c.ID)
}

func connect(t *testing.T) (*monitor, *Client) {
	t.Helper()
	m, conn := newMonitor(t)
	go m.negotiate()
	c, err := New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return m, c
}

func TestExecute(t *testing.T) {
	m, c := connect(t)
	go func() {
		got := m.next()
		m.say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {"guest": true}}`)
		m.say(`{"return": {"stale": true}, "id": %d}`, got.ID+100)
		m.say(`{"return": {"status": "running", "new-field": [1]}, "id": %d}`, got.ID)
	}()
	var status struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Fatalf("query-status = %+v, %v", status, err)
	}
	e := <-c.Events()
	if e.Name != "RESET" || string(e.Data) != `{"guest": true}` || e.At.UnixMicro() != 1_000_002 {
		t.Errorf("event %+v", e)
	}
}

// TestAnswersOutOfOrder holds that an answer goes to its own command.
func TestAnswersOutOfOrder(t *testing.T) {
	m, c := connect(t)
	go func() {
		a, b := m.next(), m.next()
		m.say(`{"return": %q, "id": %d}`, b.Execute, b.ID)
		m.say(`{"return": %q, "id": %d}`, a.Execute, a.ID)
	}()
	results := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		go func() {
			var got string
			err := c.Execute(t.Context(), name, nil, &got)
			if err == nil && got != name {
				err = fmt.Errorf("%s was answered with %s", name, got)
			}
			results <- err
		}()
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestRefusal(t *testing.T) {
	m, c := connect(t)
	go func() {
		m.say(`{"error": {"class": "GenericError", "desc": "no such device"}, "id": %d}`, m.next().ID)
	}()
	err := c.Execute(t.Context(), "device_del", map[string]string{"id": "x"}, nil)
	var refused *CommandError
	if !errors.As(err, &refused) || refused.Desc != "no such device" || refused.Command != "device_del" {
		t.Errorf("error %v", err)
	}
	if c.Err() != nil {
		t.Errorf("a refusal closed the connection: %v", c.Err())
	}
}

func TestSecondClientIsNeverGreeted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := newMonitor(t)
		start := time.Now()
		_, err := New(context.Background(), conn)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != FirstTimeout {
			t.Errorf("after %v: %v; want the deadline after %v", time.Since(start), err, FirstTimeout)
		}
	})
}

func TestSilentMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c := connect(t)
		go m.next()
		start := time.Now()
		err := c.Execute(context.Background(), "query-status", nil, nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != CommandTimeout {
			t.Errorf("after %v: %v; want the deadline after %v", time.Since(start), err, CommandTimeout)
		}
		c.Close()
	})
}

func TestMonitorGoesAway(t *testing.T) {
	m, c := connect(t)
	go func() { m.next(); m.conn.Close() }()
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
	<-c.Done()
	if _, open := <-c.Events(); open {
		t.Error("events are still open")
	}
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("later command: %v, want ErrClosed", err)
	}
}

func TestBrokenMonitor(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":         `hello`,
		"answer, no id":   `{"error": {"class": "GenericError", "desc": "JSON parse error"}}`,
		"none of three":   `{"note": 1}`,
		"endless message": `{"event": "` + strings.Repeat("x", maxMessageBytes),
	} {
		m, c := connect(t)
		go m.say("%s", line)
		<-c.Done()
		if !errors.Is(c.Err(), errMalformed) {
			t.Errorf("%s: %v, want a malformed message", name, c.Err())
		}
	}
}

// TestEventsAreBounded floods a client whose events nobody takes: commands still work, and it says that it missed some.
func TestEventsAreBounded(t *testing.T) {
	m, c := connect(t)
	go func() {
		for range maxEvents + 1 {
			m.say(`{"event": "RTC_CHANGE", "data": {"offset": 1}}`)
		}
		m.say(`{"return": {}, "id": %d}`, m.next().ID)
	}()
	if err := c.Execute(t.Context(), "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
	if !c.Missed() || c.Missed() {
		t.Error("want Missed once")
	}
	if len(c.events) != maxEvents {
		t.Errorf("%d events held, want %d", len(c.events), maxEvents)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(greeting + "\r\n"))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}` + "\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"error": {"class": "x", "desc": "y"}, "id": 2}` + "\n"))
	f.Add([]byte(`{"return": null, "id": -1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines := bufio.NewReaderSize(bytes.NewReader(b), 16)
		for range bytes.Count(b, []byte("\n")) + 1 {
			m, err := readMessage(lines)
			if err != nil {
				return
			}
			kinds := 0
			for _, is := range []bool{m.greeting, m.event != nil, m.answer != nil} {
				if is {
					kinds++
				}
			}
			if kinds != 1 {
				t.Fatalf("message of %d kinds: %+v", kinds, m)
			}
		}
	})
}
