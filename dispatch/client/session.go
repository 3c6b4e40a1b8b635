package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nimbrel/nimbrel/dispatch/internal/wire"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/rpc"
)

// connectTimeout bounds dialling, the handshakes and the way to the first answer.
const connectTimeout = 30 * time.Second

// connectedPeriod is how often Options.Connected is called again.
const connectedPeriod = time.Hour

// live is one session's connection.
type live struct {
	conn   *rpc.Conn
	stream *rpc.Stream
}

// session dials and works until the session ends. worked tells whether the server took the target.
func (c *Client) session(ctx context.Context) (worked bool, err error) {
	dial, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	nc, err := c.o.Dial(dial)
	if err != nil {
		return false, fmt.Errorf("dial server: %w", err)
	}
	conn, err := rpc.Client(dial, nc, rpc.Options{Handler: streams{c}, Name: c.o.Target})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { go conn.Close() })()
	c.connected(dial, conn)
	stream, err := conn.OpenStream(dial, wire.Stream, nil)
	if err != nil {
		return false, err
	}
	go c.lookAfter(ctx, conn) // ends with the connection
	defer c.use(nil)
	return c.loop(ctx, live{conn, stream})
}

func (c *Client) connected(ctx context.Context, conn *rpc.Conn) {
	if c.o.Connected == nil {
		return
	}
	if err := c.o.Connected(ctx, conn); err != nil {
		c.o.Log.Warn("look after connection", "target", c.o.Target, "err", err)
	}
}

// lookAfter calls Connected again while the connection lasts: a certificate may end before it does.
func (c *Client) lookAfter(ctx context.Context, conn *rpc.Conn) {
	tick := time.NewTicker(connectedPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			call, cancel := context.WithTimeout(ctx, connectTimeout)
			c.connected(call, conn)
			cancel()
		case <-conn.Done():
			return
		}
	}
}

// loop is the session: messages, reports and heartbeats, on one goroutine.
func (c *Client) loop(ctx context.Context, l live) (worked bool, err error) {
	messages, failed := make(chan session.Message), make(chan error, 1)
	go l.read(messages, failed)
	if err := c.act(l, c.core.Connect(c.o.Info())); err != nil {
		return false, err
	}
	heartbeat := time.NewTimer(c.heartbeatPause())
	defer heartbeat.Stop()
	silence := time.NewTimer(connectTimeout)
	defer silence.Stop()
	var gather <-chan time.Time
	for {
		var out session.Output
		select {
		case m := <-messages:
			silence.Reset(max(connectTimeout, 6*c.o.HeartbeatPeriod))
			out = c.core.Receive(m)
			if _, answer := m.(*session.HeartbeatAck); answer && c.taken.answered() {
				c.completed()
			}
			if w, ok := m.(*session.Welcome); ok && w.Verdict == session.Resume {
				worked = true
				c.use(l.conn)
				c.note(true, nil)
				out.Send = append(out.Send, c.hear().Send...)
			}
		case <-c.reset:
			if gather == nil {
				gather = time.After(c.o.ReportDelay)
			}
		case <-gather:
			gather = nil
			out = c.hear()
		case <-heartbeat.C:
			if len(c.taken.waiting) >= maxUnanswered {
				return worked, fmt.Errorf("server left %d heartbeats unanswered", maxUnanswered)
			}
			heartbeat.Reset(c.heartbeatPause())
			out = c.core.Heartbeat()
		case <-silence.C:
			return worked, errors.New("server is silent")
		case err := <-failed:
			return worked, err
		case <-ctx.Done():
			return worked, ctx.Err()
		}
		if err := c.act(l, out); err != nil {
			return worked, err
		}
	}
}

func (c *Client) heartbeatPause() time.Duration {
	p := c.o.HeartbeatPeriod
	return p - p/10 + rand.N(p/5+1)
}

// read hands over messages until the stream fails; the loop's end closes the connection and with it the stream.
func (l live) read(messages chan<- session.Message, failed chan<- error) {
	r := wire.NewReader(l.stream)
	for {
		m, err := r.Next()
		if err != nil {
			failed <- fmt.Errorf("session: %w", err)
			return
		}
		select {
		case messages <- m:
		case <-l.conn.Done():
			return
		}
	}
}

// taken tells whether all that the server had is held here. The server answers a heartbeat after what it sent before, and
// sends again only then what was refused before: so an answer completes the state when nothing was refused in the
// interval before its heartbeat, nor since. Heartbeats are answered one by one and in order, perhaps after the next was sent.
type taken struct {
	refused bool   // something was, since the last heartbeat
	waiting []bool // of each heartbeat without an answer, the oldest first: its answer completes the state
}

// maxUnanswered bounds the heartbeats without an answer. A server that sends other messages meanwhile is not silent.
const maxUnanswered = 16

// note follows what is sent.
func (t *taken) note(send []session.Message) {
	for _, m := range send {
		switch m := m.(type) {
		case *session.Hello:
			*t = taken{}
		case *session.Ack:
			if m.Nack != "" {
				t.refused = true
				clear(t.waiting)
			}
		case *session.Heartbeat:
			t.waiting = append(t.waiting, !t.refused)
			t.refused = false
		}
	}
}

// answered takes the answer to the oldest heartbeat and tells whether it completes the state.
func (t *taken) answered() (complete bool) {
	if len(t.waiting) == 0 {
		return false
	}
	complete = t.waiting[0]
	t.waiting = t.waiting[1:]
	return complete
}

// completed notes that a heartbeat was answered.
func (c *Client) completed() {
	epoch := c.core.Meta().Epoch
	c.mu.Lock()
	first := c.epoch != epoch
	c.epoch = epoch
	c.mu.Unlock()
	if first {
		c.publish()
	}
}

// act executes an output and sends its messages.
func (c *Client) act(l live, out session.Output) error {
	send, err := c.execute(out)
	c.taken.note(send)
	if len(send) > 0 {
		l.stream.SetWriteDeadline(time.Now().Add(time.Minute))
		if werr := wire.Write(l.stream, send...); err == nil {
			err = werr
		}
	}
	return err
}

// execute does what an output says, and what follows from that, in the order that keeps what is shown durable.
func (c *Client) execute(out session.Output) (send []session.Message, end error) {
	if out.StandDown != 0 {
		c.o.Log.Warn("stand down: this target was given up under its old epoch", "target", c.o.Target, "epoch", out.StandDown)
		c.o.StandDown(out.StandDown)
	}
	changed := false
	for queue := []session.Output{out}; len(queue) > 0; queue = queue[1:] {
		o := queue[0]
		if o.Meta != nil {
			if err := c.disk.writeMeta(*o.Meta); err != nil {
				return send, fmt.Errorf("keep history and epoch: %w", err)
			}
		}
		send = append(send, o.Send...)
		for _, k := range o.Stage {
			if err := c.disk.write(k); err != nil {
				c.o.Log.Error("keep desired section", "section", k.ID.String(), "err", err)
				queue = append(queue, c.core.Abort(k, err))
				continue
			}
			queue = append(queue, c.core.Commit(k))
		}
		for _, id := range o.Drop {
			c.disk.remove(id)
		}
		changed = changed || o.Changed
		end = errors.Join(end, o.Close)
	}
	if changed {
		c.publish()
	}
	return send, end
}

// publish shows the state to the owner.
func (c *Client) publish() {
	d := Desired{sinks: c.core.Sections()}
	c.mu.Lock()
	d.epoch = c.epoch
	c.desired = d
	c.mu.Unlock()
	select {
	case c.shown <- struct{}{}:
	default:
	}
}
