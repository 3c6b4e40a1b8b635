package server

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// openTimeout bounds how long the first message of a stream may take.
const openTimeout = time.Minute

// ServeStream serves a long commit or a feed.
func (h *handler) ServeStream(ctx context.Context, s *rpc.Stream) error {
	_ = s.SetReadDeadline(time.Now().Add(openTimeout)) // never fails
	switch s.Name() {
	case wire.StreamCommit:
		return h.longCommit(ctx, s)
	case wire.StreamWatch:
		return h.watch(ctx, s)
	}
	return rpc.ErrUnknownStream
}

func (h *handler) longCommit(ctx context.Context, s *rpc.Stream) error {
	select {
	case h.s.long <- struct{}{}:
		defer func() { <-h.s.long }()
	case <-ctx.Done():
		return ctx.Err()
	}
	body, err := wire.ReadMessage(s, wire.MaxCommitBytes)
	if err != nil {
		return fmt.Errorf("read commit: %w", err)
	}
	a, err := h.commit(ctx, body)
	return reply(s, &wire.Reply{Answer: a}, err)
}

// reply writes a message, or the error in its place.
func reply(w io.Writer, r *wire.Reply, err error) error {
	if err != nil {
		r = &wire.Reply{Code: wire.CodeOf(err), Text: err.Error()}
	}
	return wire.WriteMessage(w, wire.Encode(r))
}

// watch passes a feed on until either end has enough, or the server closes. A client that reads nothing holds nothing but
// its stream: a feed pins no history.
func (h *handler) watch(ctx context.Context, s *rpc.Stream) error {
	body, err := wire.ReadMessage(s, wire.MaxRequestBytes)
	if err != nil {
		return fmt.Errorf("read watch: %w", err)
	}
	m, err := wire.Decode[wire.Watch](body)
	if err != nil {
		return &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
	}
	if len(m.Prefixes) > wire.MaxPrefixes {
		return &rpc.Error{Code: rpc.CodeInvalid, Message: fmt.Sprintf("%d prefixes, at most %d", len(m.Prefixes), wire.MaxPrefixes)}
	}
	if m.Pinned && m.History != h.s.history {
		return reply(s, nil, fmt.Errorf("feed of history %v, this is %v: %w", m.History, h.s.history, store.ErrOtherHistory))
	}
	f, err := h.s.engine.Watch(ctx, m.From, m.Prefixes...)
	if err != nil {
		return reply(s, nil, err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.s.ending, cancel)()
	err = reply(s, &wire.Reply{History: h.s.history}, nil)
	for err == nil {
		var b store.Batch
		if b, err = f.Next(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // the client goes on elsewhere, if it wants to
			}
			return reply(s, nil, err)
		}
		err = reply(s, &wire.Reply{Batch: &wire.Batch{Version: b.Version, Changes: b.Changes, Progress: b.Progress}}, nil)
	}
	return err
}
