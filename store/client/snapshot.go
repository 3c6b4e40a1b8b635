package client

import (
	"context"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// snapshot is one that the server holds.
type snapshot struct {
	c      *Client
	opened wire.Opened
}

// Snapshot returns the latest durable state, at least the version. The server holds it for its lease, beyond a connection.
func (c *Client) Snapshot(ctx context.Context, atLeast store.Version) (store.Snapshot, error) {
	o, err := read[wire.Opened](ctx, c, wire.MethodSnapshot, wire.Open{AtLeast: atLeast})
	if err != nil {
		return nil, err
	}
	return &snapshot{c: c, opened: *o}, nil
}

func (s *snapshot) History() store.HistoryID { return s.opened.History }

func (s *snapshot) Version() store.Version { return s.opened.Version }

func (s *snapshot) Get(ctx context.Context, key []byte) (store.Value, store.Version, bool, error) {
	g, err := read[wire.Got](ctx, s.c, wire.MethodGet, wire.Get{ID: s.opened.ID, Key: key})
	if err != nil {
		return store.Value{}, 0, false, err
	}
	return g.Value, g.Version, g.Found, nil
}

// Range reads rows in as many pages as they take.
func (s *snapshot) Range(ctx context.Context, o store.RangeOptions) ([]store.KV, error) {
	if o.Limit <= 0 || o.Limit > store.MaxRangeRows {
		o.Limit = store.MaxRangeRows
	}
	var rows []store.KV
	for limit := o.Limit; ; {
		q := wire.Range{ID: s.opened.ID, Begin: o.Begin, End: o.End, Unbounded: o.End == nil, Limit: limit - len(rows), Reverse: o.Reverse}
		p, err := read[wire.Page](ctx, s.c, wire.MethodRange, q)
		if err != nil {
			return nil, err
		}
		for _, r := range p.Rows {
			rows = append(rows, store.KV(r))
		}
		if !p.More || len(p.Rows) == 0 || len(rows) >= limit {
			return rows, nil
		}
		o = wire.After(o, rows[len(rows)-1].Key)
	}
}

// Release tells the server soon. When too many wait to be told, or it cannot be reached, its lease ends the snapshot.
func (s *snapshot) Release() {
	select {
	case s.c.releases <- s.opened.ID:
	default:
	}
}

// release tells the server of released snapshots, as many at once as there are. It holds no place among the requests.
func (c *Client) release() {
	for {
		var r wire.Release
		select {
		case id := <-c.releases:
			r.IDs = append(r.IDs, id)
		case <-c.ctx.Done():
			return
		}
		for len(r.IDs) < wire.MaxReleases && len(c.releases) > 0 {
			r.IDs = append(r.IDs, <-c.releases)
		}
		ctx, cancel := context.WithTimeout(c.ctx, c.o.RetryFor)
		if l, err := c.connection(ctx); err == nil {
			_, _ = l.Call(ctx, wire.MethodRelease, wire.Encode(r)) // else the lease ends them
		}
		cancel()
	}
}
