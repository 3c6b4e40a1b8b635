package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// maxAhead bounds the batches that a feed takes from its stream before the caller wants them, beyond the stream's window.
const maxAhead = 16

// feed passes on what a stream brings. When that breaks, another goes on after the last batch that it brought.
type feed struct {
	c        *Client
	prefixes [][]byte
	ctx      context.Context
	cancel   context.CancelFunc

	// Owned by the goroutine that follows.
	at      store.Version // newest that was put in batches
	history store.HistoryID

	batches chan store.Batch
	end     chan struct{} // closed after err was set
	once    sync.Once
	err     error

	first store.HistoryID // the feed's, from its first stream on
	told  store.Version   // newest that the caller knows of; the caller's
}

// Watch opens a feed and waits until the server has taken it.
func (c *Client) Watch(ctx context.Context, from store.Version, prefixes ...[]byte) (store.Feed, error) {
	if len(prefixes) > wire.MaxPrefixes {
		return nil, fmt.Errorf("watch %d prefixes: at most %d", len(prefixes), wire.MaxPrefixes)
	}
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	defer c.end()
	f := &feed{c: c, prefixes: prefixes, at: from, told: from, batches: make(chan store.Batch, maxAhead), end: make(chan struct{})}
	s, err := f.open(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("watch from version %d: %w", from, err)
	}
	f.first = f.history
	f.ctx, f.cancel = context.WithCancel(c.ctx)
	c.wg.Go(func() { f.follow(s) })
	return f, nil
}

// open opens a stream after f.at, trying for RetryFor.
func (f *feed) open(ctx context.Context, pinned bool) (*rpc.Stream, error) {
	patience, cancel := context.WithTimeout(ctx, f.c.o.RetryFor)
	defer cancel()
	for pause := backoffMin; ; {
		l, err := f.c.connection(patience)
		if err != nil {
			return nil, f.c.unavailable(ctx, err)
		}
		s, err := f.openOn(patience, l, pinned)
		if err == nil {
			return s, nil
		}
		again, later := retry(l, err)
		if !again || ctx.Err() != nil {
			return nil, local(err)
		}
		if patience.Err() != nil {
			return nil, f.c.unavailable(ctx, err)
		}
		if later {
			pause = f.c.pause(patience, pause)
		}
	}
}

func (f *feed) openOn(ctx context.Context, l *link, pinned bool) (*rpc.Stream, error) {
	s, err := l.OpenStream(ctx, wire.StreamWatch, nil)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	m := wire.Watch{From: f.at, Prefixes: f.prefixes, History: f.history, Pinned: pinned}
	var r *wire.Reply
	if err = wire.WriteMessage(s, wire.Encode(m)); err == nil {
		r, err = reply(s)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	f.history = r.History
	return s, nil
}

// reply reads one message of the server; an error that it holds comes as *rpc.Error.
func reply(s *rpc.Stream) (*wire.Reply, error) {
	body, err := wire.ReadMessage(s, wire.MaxMessageBytes)
	if err != nil {
		return nil, err
	}
	r, err := wire.Decode[wire.Reply](body)
	if err == nil && r.Code != 0 {
		err = &rpc.Error{Code: rpc.Code(r.Code), Message: r.Text}
	}
	return r, err
}

// follow moves batches from streams to the caller until either end has enough.
func (f *feed) follow(s *rpc.Stream) {
	var err error
	for err == nil {
		stop := context.AfterFunc(f.ctx, func() { s.Close() })
		err = f.drain(s)
		stop()
		s.Close()
		var e *rpc.Error
		if f.ctx.Err() == nil && (!errors.As(err, &e) || e.Code < 1000 || uint32(e.Code) == wire.CodeClosed) {
			s, err = f.open(f.ctx, true) // the connection broke, or the server goes
		}
	}
	f.finish(local(err))
}

func (f *feed) drain(s *rpc.Stream) error {
	for {
		r, err := reply(s)
		if err != nil {
			return err
		}
		if r.Batch == nil {
			return errors.New("the server's message holds no batch")
		}
		b := store.Batch{History: f.history, Version: r.Batch.Version, Changes: r.Batch.Changes, Progress: r.Batch.Progress}
		if b.Progress && b.Version == f.at { // the caller's own clock tells that
			continue
		}
		f.at = b.Version
		select {
		case f.batches <- b:
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
	}
}

// Next returns the next transaction, or a mark at the latest after store.ProgressInterval.
func (f *feed) Next(ctx context.Context) (store.Batch, error) {
	if f.ctx.Err() != nil {
		return store.Batch{}, store.ErrClosed
	}
	select {
	case b := <-f.batches:
		return f.tell(b), nil
	default:
	}
	progress := time.NewTimer(store.ProgressInterval)
	defer progress.Stop()
	select {
	case b := <-f.batches:
		return f.tell(b), nil
	case <-f.end:
		return f.last()
	case <-ctx.Done():
		return store.Batch{}, ctx.Err()
	case <-progress.C:
		return store.Batch{History: f.first, Version: f.told, Progress: true}, nil
	}
}

func (f *feed) tell(b store.Batch) store.Batch {
	f.told = b.Version
	return b
}

// last returns what came before the end, then why it ended.
func (f *feed) last() (store.Batch, error) {
	select {
	case b := <-f.batches:
		return f.tell(b), nil
	default:
		return store.Batch{}, f.err
	}
}

func (f *feed) finish(err error) {
	f.once.Do(func() {
		if f.ctx.Err() != nil {
			err = store.ErrClosed
		}
		f.err = err
		close(f.end)
	})
}

// Close ends the feed.
func (f *feed) Close() { f.cancel() }
