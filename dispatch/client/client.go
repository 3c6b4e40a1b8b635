package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/rpc"
)

// Handler is told of the desired state. Desired is called from one goroutine, with the newest state when several changes
// came during the last call, and once at the start with what the disk held. It should return soon and may not block for
// ever; the state itself never changes under its reader.
type Handler interface {
	Desired(d Desired)
}

// Options of a Client. Target, Dir, Dial and Handler are required; the zero value of each other field means the default
// named.
type Options struct {
	Target string
	Cell   uint32
	Dir    string // for the desired documents; made if missing, 0700
	BootID string // of the machine
	// Dial connects to a server; over TLS it answers a *tls.Conn, whose handshake is done here. See enroll.Identity.Dial.
	Dial    func(context.Context) (net.Conn, error)
	Info    func() []byte // what the target says about itself in each hello
	Handler Handler
	Streams map[string]StreamHandler // by name
	// StandDown is called when the target was given up under its epoch, before the new one is taken: what must not run
	// twice has to be fenced when it returns. Desired.Epoch tells when the fence may go.
	StandDown func(epoch uint64)
	// Connected is called with each new connection, before the session, and every hour while it lasts; an error is logged.
	// For renewing certificates (enroll.Identity.Renew).
	Connected func(ctx context.Context, conn *rpc.Conn) error
	// ActualSections are kept back until ReadyActual, so that a section half looked at does not seem to be all there is.
	ActualSections []string

	HeartbeatPeriod time.Duration // dispatch.HeartbeatPeriod, ±10 %
	ReportDelay     time.Duration // how long reports are gathered; 150 ms
	RetryCeiling    time.Duration // dispatch.ReconnectCeiling
	Log             *slog.Logger
}

// Validate reports what is missing.
func (o Options) Validate() error {
	if err := dispatch.ValidateName(o.Target); err != nil {
		return fmt.Errorf("dispatch client: target: %w", err)
	}
	if o.Dir == "" || o.Dial == nil || o.Handler == nil {
		return errors.New("dispatch client: needs Dir, Dial and Handler")
	}
	for name := range o.Streams {
		if err := dispatch.ValidateStream(name, nil); err != nil {
			return fmt.Errorf("dispatch client: %w", err)
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Info == nil {
		o.Info = func() []byte { return nil }
	}
	if o.StandDown == nil {
		o.StandDown = func(uint64) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.HeartbeatPeriod <= 0 {
		o.HeartbeatPeriod = dispatch.HeartbeatPeriod
	}
	if o.ReportDelay <= 0 {
		o.ReportDelay = 150 * time.Millisecond
	}
	if o.RetryCeiling <= 0 {
		o.RetryCeiling = dispatch.ReconnectCeiling
	}
	return o
}

// Client is a target's end. Its methods are safe for concurrent use; none but OpenStream waits for the network.
type Client struct {
	o     Options
	disk  *disk
	reset chan struct{} // capacity 1: something is to be reported

	mu      sync.Mutex
	pending pending
	desired Desired
	epoch   uint64 // see Desired.Epoch
	status  Status
	conn    *rpc.Conn     // of the session; nil without one
	shown   chan struct{} // capacity 1: desired is newer than the handler knows

	// Of Run's goroutine alone.
	core  *session.Client
	taken taken
}

// Status tells how the link is.
type Status struct {
	Connected bool
	Since     time.Time // of the last change of Connected
	LastError error     // why the last session ended or could not begin; nil while connected
}

// pending is what the owner said and Run has not taken yet; the newest word on each thing replaces the one before.
type pending struct {
	applied map[dispatch.SectionID]appliedMark
	actual  map[string]map[string]report
	ready   map[string]bool
}

type appliedMark struct {
	seq      dispatch.Seq
	failures []dispatch.Failure
}

type report struct {
	payload []byte
	deleted bool
}

func newPending() pending {
	return pending{applied: map[dispatch.SectionID]appliedMark{}, actual: map[string]map[string]report{}, ready: map[string]bool{}}
}

// New makes a client. It panics on options that Validate refuses.
func New(o Options) *Client {
	err := o.Validate()
	assert.That(err == nil, "%v", err)
	return &Client{o: o.withDefaults(), reset: make(chan struct{}, 1), pending: newPending(), shown: make(chan struct{}, 1)}
}

// Run works until ctx ends. It fails only when the directory cannot be used; without a server it shows what the disk
// held, and goes on trying.
func (c *Client) Run(ctx context.Context) error {
	d, meta, sinks, err := openDisk(c.o.Dir, c.o.Log)
	if err != nil {
		return fmt.Errorf("open desired documents: %w", err)
	}
	c.disk = d
	c.core = session.NewClient(session.ClientOptions{Target: c.o.Target, Cell: c.o.Cell, BootID: c.o.BootID, Incarnation: rand.Uint64() | 1}, meta, sinks)
	for _, name := range c.o.ActualSections {
		c.core.HoldActual(name)
	}
	start := c.core.Start()
	start.Changed = true
	if _, err := c.execute(start); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { c.tell(ctx) })
	c.connectForever(ctx)
	return nil
}

// connectForever holds sessions one after the other.
func (c *Client) connectForever(ctx context.Context) {
	backoff := c.o.RetryCeiling / 64
	for ctx.Err() == nil {
		worked, err := c.session(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(false, err)
		if worked {
			backoff = c.o.RetryCeiling / 64
		}
		pause := rand.N(backoff + 1) // full jitter
		backoff = min(2*backoff, c.o.RetryCeiling)
		var retry *dispatch.RetryError
		switch {
		case errors.As(err, &retry):
			pause = retry.After + rand.N(retry.After/10+1)
		case errors.Is(err, dispatch.ErrIdentityInUse), errors.Is(err, dispatch.ErrOtherCell), errors.Is(err, dispatch.ErrProtocol):
			pause = c.o.RetryCeiling/2 + rand.N(c.o.RetryCeiling/2+1) // only a person changes this
			c.o.Log.Error("server refuses this target", "target", c.o.Target, "err", err)
		default:
			c.o.Log.Info("no session with the server", "target", c.o.Target, "err", err, "retryMs", pause.Milliseconds())
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (c *Client) note(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected != connected || c.status.Since.IsZero() {
		c.status.Since = time.Now()
	}
	c.status.Connected, c.status.LastError = connected, err
}

// use makes conn the one that streams are opened on.
func (c *Client) use(conn *rpc.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
}

// Status tells how the link is now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Desired is the state as last shown.
func (c *Client) Desired() Desired {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.desired
}

// tell calls the handler, once for all changes that came meanwhile.
func (c *Client) tell(ctx context.Context) {
	for {
		select {
		case <-c.shown:
			c.o.Handler.Desired(c.Desired())
		case <-ctx.Done():
			return
		}
	}
}

// ReportApplied says that every item of a section with a revision up to seq, as Desired showed it, is applied, but for
// the failures. The newest word replaces the ones before.
func (c *Client) ReportApplied(doc, section string, seq uint64, failures []dispatch.Failure) {
	c.say(func(p *pending) {
		p.applied[dispatch.SectionID{Doc: doc, Section: section}] = appliedMark{seq, failures}
	})
}

// ReportActual sets an item of what the target reports. The payload is kept; the same again is no change.
func (c *Client) ReportActual(section, key string, payload []byte) {
	c.say(func(p *pending) { p.set(section, key, report{payload: payload}) })
}

// DeleteActual takes an item away.
func (c *Client) DeleteActual(section, key string) {
	c.say(func(p *pending) { p.set(section, key, report{deleted: true}) })
}

// ReadyActual lets out a section of Options.ActualSections: all there is has been reported.
func (c *Client) ReadyActual(section string) {
	c.say(func(p *pending) { p.ready[section] = true })
}

func (p *pending) set(section, key string, r report) {
	if p.actual[section] == nil {
		p.actual[section] = map[string]report{}
	}
	p.actual[section][key] = r
}

func (c *Client) say(change func(*pending)) {
	c.mu.Lock()
	change(&c.pending)
	c.mu.Unlock()
	select {
	case c.reset <- struct{}{}:
	default:
	}
}

// hear gives the core what the owner said, and answers the messages that follow.
func (c *Client) hear() session.Output {
	c.mu.Lock()
	p := c.pending
	c.pending = newPending()
	c.mu.Unlock()
	for section, items := range p.actual {
		for key, r := range items {
			if r.deleted {
				c.core.Unreport(section, key)
			} else {
				c.core.Report(section, key, r.payload)
			}
		}
	}
	for section := range p.ready {
		c.core.ReadyActual(section)
	}
	out := c.core.PumpActual()
	for id, a := range p.applied {
		out.Send = append(out.Send, c.core.Applied(id, a.seq, a.failures).Send...)
	}
	return out
}
