package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// handler serves one connection.
type handler struct{ s *Server }

func (h *handler) ServeOneway(*rpc.Conn, uint32, []byte) {}

// ServeRequest answers a request. Errors of the engine keep their meaning through their codes.
func (h *handler) ServeRequest(ctx context.Context, c *rpc.Conn, method uint32, body []byte) ([]byte, error) {
	switch method {
	case wire.MethodHello:
		return answer(body, h.hello)
	case wire.MethodSnapshot:
		return answer(body, func(m *wire.Open) (*wire.Opened, error) { return h.open(ctx, c, m) })
	case wire.MethodGet:
		return answer(body, func(m *wire.Get) (*wire.Got, error) { return h.get(ctx, c, m) })
	case wire.MethodRange:
		return answer(body, func(m *wire.Range) (*wire.Page, error) { return h.page(ctx, c, m) })
	case wire.MethodRelease:
		return answer(body, h.release)
	case wire.MethodCommit:
		a, err := h.commit(ctx, body)
		if err != nil {
			return nil, remote(err)
		}
		if out := wire.Encode(a); len(out) <= wire.MaxRequestBytes {
			return out, nil
		}
		return nil, &rpc.Error{Code: rpc.Code(wire.CodeTooLong), Message: "the answer is too long for a request"}
	}
	return nil, &rpc.Error{Code: rpc.CodeUnknownMethod, Message: fmt.Sprintf("no method %d", method)}
}

// answer decodes, serves and encodes.
func answer[Q, A any](body []byte, serve func(*Q) (*A, error)) ([]byte, error) {
	q, err := wire.Decode[Q](body)
	if err != nil {
		return nil, &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
	}
	a, err := serve(q)
	if err != nil {
		return nil, remote(err)
	}
	return wire.Encode(a), nil
}

// remote gives an error its code.
func remote(err error) error {
	var e *rpc.Error
	if errors.As(err, &e) {
		return e
	}
	return &rpc.Error{Code: rpc.Code(wire.CodeOf(err)), Message: err.Error()}
}

func (h *handler) hello(m *wire.Hello) (*wire.Welcome, error) {
	if m.Version != wire.Version {
		return nil, fmt.Errorf("client speaks version %d, server %d: %w", m.Version, wire.Version, wire.ErrVersion)
	}
	return &wire.Welcome{Version: wire.Version, History: h.s.history}, nil
}

func (h *handler) open(ctx context.Context, c *rpc.Conn, m *wire.Open) (*wire.Opened, error) {
	if err := h.s.held.room(c); err != nil {
		return nil, err
	}
	s, err := h.s.engine.Snapshot(ctx, m.AtLeast)
	if err != nil {
		return nil, err
	}
	return &wire.Opened{ID: h.s.held.add(c, s), History: s.History(), Version: s.Version()}, nil
}

func (h *handler) get(ctx context.Context, c *rpc.Conn, m *wire.Get) (*wire.Got, error) {
	s, err := h.s.held.use(c, m.ID)
	if err != nil {
		return nil, err
	}
	v, version, found, err := s.Get(ctx, m.Key)
	return &wire.Got{Found: found, Value: v, Version: version}, err
}

// page reads in steps that grow while rows are small, so that long rows do not fill the memory.
func (h *handler) page(ctx context.Context, c *rpc.Conn, m *wire.Range) (*wire.Page, error) {
	s, err := h.s.held.use(c, m.ID)
	if err != nil {
		return nil, err
	}
	if m.Limit <= 0 || m.Limit > store.MaxRangeRows {
		m.Limit = store.MaxRangeRows
	}
	o := store.RangeOptions{Begin: m.Begin, End: m.End, Reverse: m.Reverse}
	if o.End == nil && !m.Unbounded {
		o.End = []byte{}
	}
	var rows []store.KV
	for step, size := 16, 0; ; step *= 4 {
		o.Limit = min(step, m.Limit-len(rows))
		more, err := s.Range(ctx, o)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
		for _, kv := range more {
			size += len(kv.Key) + len(kv.Value.Bytes)
		}
		exhausted := len(more) < o.Limit || len(rows) == m.Limit
		if exhausted || wire.Full(size) {
			p := wire.NewPage(rows, !exhausted)
			return &p, nil
		}
		o = wire.After(o, rows[len(rows)-1].Key)
	}
}

func (h *handler) release(m *wire.Release) (*wire.Opened, error) {
	h.s.held.release(m.IDs)
	return &wire.Opened{}, nil
}

// commit decodes and commits. What cannot be decoded was made by no client of this version: it is refused as invalid.
func (h *handler) commit(ctx context.Context, body []byte) (*store.Answer, error) {
	c, err := wire.Decode[store.Commit](body)
	switch {
	case errors.Is(err, wire.ErrTooLarge):
		return store.Refuse(store.ReasonTooLarge, "%v", err), nil
	case err != nil:
		return store.Refuse(store.ReasonInvalid, "%v", err), nil
	}
	return h.s.engine.Commit(ctx, c)
}
