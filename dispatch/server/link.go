package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/dispatch/internal/wire"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/rpc"
)

// maxReplies bounds the answers waiting for a target that does not read them.
const maxReplies = 4096

// link is one session. Its reader is the handler of the target's stream; a second goroutine writes.
type link struct {
	s      *Server
	t      *target
	conn   *rpc.Conn
	stream *rpc.Stream
	wake   chan struct{} // capacity 1
	log    *slog.Logger

	// Under target.mu:
	core       *session.Server // nil until the name was taken
	replies    []session.Message
	over       bool
	nextResend time.Time

	interest map[string]bool // as registered; under Server.mu
}

func (l *link) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// peerHandler serves a target's connection.
type peerHandler struct{ s *Server }

func (h peerHandler) ServeRequest(ctx context.Context, c *rpc.Conn, method uint32, body []byte) ([]byte, error) {
	return h.s.renew(c, method, body)
}

func (peerHandler) ServeOneway(*rpc.Conn, uint32, []byte) {}

func (h peerHandler) ServeStream(ctx context.Context, stream *rpc.Stream) error {
	if stream.Name() != wire.Stream {
		return h.s.serveOpened(ctx, stream)
	}
	name := stream.Conn().Peer().Name
	if err := dispatch.ValidateName(name); err != nil {
		return &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
	}
	l := &link{s: h.s, t: h.s.target(name), conn: stream.Conn(), stream: stream, wake: make(chan struct{}, 1), log: h.s.o.Log.With("target", name)}
	err := l.run(ctx)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, rpc.ErrClosed) {
		l.log.Info("session ended", "err", err)
	}
	go stream.Conn().Close() // not here: it waits for nothing of ours, but this is one of its handlers
	return nil
}

// target finds or begins the memory of a target.
func (s *Server) target(name string) *target {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.targets[name]
	if t == nil {
		t = &target{name: name, state: session.NewTarget(), since: s.o.Clock.Now()}
		s.targets[name] = t
	}
	return t
}

// run reads until the session is over.
func (l *link) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.s.detach(l)
	defer l.stream.SetWriteDeadline(time.Unix(1, 0)) // the writer does not outlive the reader
	wg.Go(func() {
		if err := l.write(ctx); err != nil {
			go l.conn.Close()
		}
	})
	r := wire.NewReader(l.stream)
	for {
		m, err := r.Next()
		if err != nil {
			return err
		}
		if h, ok := m.(*session.Hello); ok {
			if refusal := l.s.attach(ctx, l, h); refusal != nil {
				return errors.Join(refusal, l.refuse(refusal))
			}
		}
		if err := l.receive(m); err != nil {
			return err
		}
	}
}

// refuse tells the target why, as the last message.
func (l *link) refuse(cause error) error {
	w := &session.Welcome{Verdict: session.Refused, Reason: cause.Error()}
	var retry *dispatch.RetryError
	switch {
	case errors.Is(cause, dispatch.ErrIdentityInUse):
		w.Code = session.CodeIdentityInUse
	case errors.As(cause, &retry):
		w.Verdict, w.RetryAfterMs, w.Reason = session.RetryLater, uint32(retry.After.Milliseconds()), retry.Reason
	}
	if err := wire.Write(l.stream, w); err != nil {
		return err
	}
	// The target closes once it has read this; until then the connection stays, or the message could be lost with it.
	l.stream.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{l.stream})
	return nil
}

// attach makes l the target's session. A live session with another process behind it wins, if it answers.
func (s *Server) attach(ctx context.Context, l *link, h *session.Hello) error {
	hash, err := l.keyHash()
	if err != nil {
		return err
	}
	for {
		s.mu.Lock()
		// A connection outlives its handshake: a key revoked since begins no session on one that it had kept in reserve.
		if hash != nil {
			if err := s.registered(l.t.name, hash); err != nil {
				s.mu.Unlock()
				return err
			}
		}
		old := l.t.live
		if old == nil || old == l {
			l.t.live = l
			s.mu.Unlock()
			l.begin()
			return nil
		}
		s.mu.Unlock()
		if !old.sameProcess(h.Incarnation) {
			probe, cancel := context.WithTimeout(ctx, s.o.ProbeTimeout)
			_, err := old.conn.Ping(probe)
			cancel()
			if err == nil {
				return fmt.Errorf("session of %s from %v: %w", l.t.name, l.conn.Peer().Addr, dispatch.ErrIdentityInUse)
			}
		}
		old.conn.Close()
		s.detach(old)
	}
}

// keyHash is that of the peer's certificate, and nil without TLS.
func (l *link) keyHash() ([]byte, error) {
	cert := l.conn.Peer().Certificate
	if cert == nil {
		return nil, nil
	}
	return enroll.KeyHash(cert.PublicKey)
}

// sameProcess tells whether the session is with the process that says hello again.
func (l *link) sameProcess(incarnation uint64) bool {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	return l.core != nil && l.core.Open() && l.t.state.Incarnation == incarnation
}

// begin makes the session's core, unless a first hello did.
func (l *link) begin() {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	if l.core != nil {
		return
	}
	s := l.s
	s.docs.RLock()
	defer s.docs.RUnlock()
	s.mu.Lock()
	epoch := s.epochs[l.t.name] + 1
	s.mu.Unlock()
	l.core = session.NewServer(s.lib, l.t.state, session.ServerOptions{Target: l.t.name, Cell: s.o.Cell, History: s.history, Epoch: epoch})
	if s.o.ResendPeriod > 0 {
		l.nextResend = s.o.Clock.Now().Add(rand.N(s.o.ResendPeriod)) // spread over the fleet from the first hour
	}
}

// detach ends l's hold on its target.
func (s *Server) detach(l *link) {
	l.t.mu.Lock()
	l.over = true
	l.t.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.register(l, nil)
	if l.t.live == l {
		l.t.live = nil
	}
}

// receive takes one message through the core and tells the observer.
func (l *link) receive(m session.Message) error {
	l.t.mu.Lock()
	if l.over || l.core == nil {
		l.t.mu.Unlock()
		return errors.New("session was replaced, or began without hello")
	}
	l.s.docs.RLock()
	out, events, err := l.core.Receive(m)
	l.s.docs.RUnlock()
	l.replies = append(l.replies, out...)
	tooMany := len(l.replies) > maxReplies
	l.t.mu.Unlock()
	if err != nil {
		return err
	}
	if tooMany {
		return fmt.Errorf("%d answers wait for the target to read them", maxReplies)
	}
	l.wakeUp()
	l.s.heard(l, events)
	return nil
}

// write sends answers, and what the target lacks when there are none.
func (l *link) write(ctx context.Context) error {
	for {
		messages := l.take()
		if len(messages) > 0 {
			l.stream.SetWriteDeadline(time.Now().Add(time.Minute))
			if err := wire.Write(l.stream, messages...); err != nil {
				return err
			}
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// take collects what is to be written now.
func (l *link) take() []session.Message {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	if l.core == nil || l.over {
		return nil
	}
	messages := l.replies
	l.replies = nil
	if len(messages) > 0 {
		return messages
	}
	for {
		l.s.docs.RLock()
		out, events := l.core.Pump()
		l.s.docs.RUnlock()
		l.logEvents(events)
		messages = append(messages, out...)
		if !l.updateInterest() {
			return messages
		}
		// A change that came before the new interest was registered woke nobody: look once more.
	}
}

// updateInterest registers the documents that wake this session; it answers whether there are new ones. It needs target.mu.
func (l *link) updateInterest() bool {
	if !l.core.Open() {
		return false
	}
	docs := map[string]bool{l.t.name: true}
	for _, d := range l.core.Subscriptions() {
		docs[d] = true
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if maps.Equal(docs, l.interest) {
		return false
	}
	l.s.register(l, docs)
	return true
}

// register needs Server.mu.
func (s *Server) register(l *link, docs map[string]bool) {
	for d := range l.interest {
		if !docs[d] {
			delete(s.interest[d], l)
			if len(s.interest[d]) == 0 {
				delete(s.interest, d)
			}
		}
	}
	for d := range docs {
		if s.interest[d] == nil {
			s.interest[d] = map[*link]struct{}{}
		}
		s.interest[d][l] = struct{}{}
	}
	l.interest = docs
}

// marks copies the target's marks.
func (t *target) marks() map[dispatch.SectionID]session.Marks {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[dispatch.SectionID]session.Marks, len(t.state.Marks))
	for id, m := range t.state.Marks {
		out[id] = *m
	}
	return out
}

func (l *link) logEvents(events []session.Event) {
	for _, e := range events {
		switch e := e.(type) {
		case *session.Alarm:
			l.log.Warn("host link differs from its target", "section", e.ID.String(), "reason", e.Reason)
		case *session.Nacked:
			l.log.Warn("target refuses a delta", "section", e.ID.String(), "reason", e.Reason)
		}
	}
}
