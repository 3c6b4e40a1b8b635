// Package qmp is a client of the QEMU Machine Protocol, as much of it as the VM driver needs.
//
// It owns one connection to one socket: greeting, commands tagged with ids, and events.
//
// Invariants:
//   - Every wait ends. A monitor serves one client; a second one connects and is never greeted, so the greeting has a
//     deadline, and so has each command.
//   - A connection that broke, or that said what cannot be understood, is closed for good. The caller dials again; state
//     is then asked for, never inferred from events that may have been missed.
//   - Events are bounded. When nobody takes them the newest are dropped and Missed says so.
//
// Deliberately absent: knowledge of machines. What the commands mean is host/internal/vm/qemu's.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of the waits. The first command waits longer because a machine under emulation on a loaded host starts slowly.
const (
	FirstTimeout   = 30 * time.Second // to the greeting, and again to the answer of the first command
	CommandTimeout = 5 * time.Second
)

const maxEvents = 64

// ErrClosed is why a command did not finish: the connection ended before its answer.
var ErrClosed = errors.New("monitor connection closed")

// CommandError is QEMU's refusal of a command.
type CommandError struct {
	Command string
	Class   string // QEMU's error class, "GenericError" mostly
	Desc    string // QEMU's text
}

func (e *CommandError) Error() string { return fmt.Sprintf("%s: %s", e.Class, e.Desc) }

// Client is a connection to a monitor. Its methods are safe for concurrent use.
type Client struct {
	conn   net.Conn
	events chan Event
	missed atomic.Bool
	first  atomic.Bool // the first command has been sent

	writing sync.Mutex // held across one command's bytes

	mu      sync.Mutex // guards what follows
	nextID  uint64
	waiting map[uint64]chan answer
	err     error
	done    chan struct{}
}

// New speaks to the monitor at the other end of conn: it waits for the greeting and leaves negotiation mode. It owns
// conn from here on and closes it on error.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, events: make(chan Event, maxEvents), waiting: make(map[uint64]chan answer), done: make(chan struct{})}
	lines := bufio.NewReaderSize(conn, 4096)
	if err := c.greet(ctx, lines); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet monitor: %w", err)
	}
	go c.read(lines)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet waits for the greeting, at most FirstTimeout or until ctx ends.
func (c *Client) greet(ctx context.Context, lines *bufio.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, FirstTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	m, err := readMessage(lines)
	if !stop() {
		return fmt.Errorf("no greeting, is another client connected? %w", ctx.Err())
	}
	if err != nil {
		return err
	}
	if !m.greeting {
		return fmt.Errorf("%w: want a greeting first", errMalformed)
	}
	return nil
}

// Execute runs one command and decodes its answer into result unless that is nil. A *CommandError is QEMU's definite
// refusal; after any other error it is unknown whether the command ran.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	timeout := CommandTimeout
	if c.first.CompareAndSwap(false, true) {
		timeout = FirstTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	a, err := c.roundTrip(ctx, command, arguments)
	if err == nil && a.refused != nil {
		err = &CommandError{Command: command, Class: a.refused.Class, Desc: a.refused.Desc}
	}
	if err == nil && result != nil {
		err = json.Unmarshal(a.result, result)
	}
	if err != nil {
		return fmt.Errorf("execute %s: %w", command, err)
	}
	return nil
}

func (c *Client) roundTrip(ctx context.Context, command string, arguments any) (answer, error) {
	id, answers, err := c.register()
	if err != nil {
		return answer{}, err
	}
	defer c.forget(id)
	if err := c.send(ctx, id, command, arguments); err != nil {
		return answer{}, err
	}
	select {
	case a := <-answers:
		return a, nil
	case <-c.done:
		return answer{}, c.Err()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

func (c *Client) register() (uint64, chan answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.nextID++
	answers := make(chan answer, 1)
	c.waiting[c.nextID] = answers
	return c.nextID, answers, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Client) send(ctx context.Context, id uint64, command string, arguments any) error {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if deadline, ok := ctx.Deadline(); ok {
		c.conn.SetWriteDeadline(deadline)
	}
	if _, err := c.conn.Write(append(b, '\n')); err != nil {
		c.fail(err) // part of a command may be on the wire: nothing after it could be trusted
		return err
	}
	return nil
}

// read hands out what QEMU says until the connection ends.
func (c *Client) read(lines *bufio.Reader) {
	defer close(c.events)
	for {
		m, err := readMessage(lines)
		if err != nil {
			c.fail(err)
			return
		}
		switch {
		case m.event != nil:
			select {
			case c.events <- *m.event:
			default:
				c.missed.Store(true)
			}
		case m.answer != nil:
			c.deliver(*m.answer)
		}
	}
}

// deliver ignores an answer that nobody waits for any more.
func (c *Client) deliver(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answers := c.waiting[a.id]; answers != nil {
		delete(c.waiting, a.id)
		answers <- a
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = fmt.Errorf("%w: %w", ErrClosed, err)
		close(c.done)
		c.conn.Close()
	}
}

// Events yields what QEMU says unasked, in order. It is closed when the connection ends.
func (c *Client) Events() <-chan Event { return c.events }

// Missed says whether an event was dropped since the last call: the caller must ask for the state.
func (c *Client) Missed() bool { return c.missed.Swap(false) }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection ended; it wraps ErrClosed. It is nil while the connection stands.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. The machine goes on.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// readMessage reads one line and refuses one longer than maxMessageBytes before holding it.
func readMessage(lines *bufio.Reader) (message, error) {
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		if len(line)+len(part) > maxMessageBytes {
			return message{}, fmt.Errorf("%w: longer than %d bytes", errMalformed, maxMessageBytes)
		}
		line = append(line, part...)
		if err == nil {
			return parse(line)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return message{}, err
		}
	}
}
