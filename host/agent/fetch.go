package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/imagecache"
	"github.com/nimbrel/nimbrel/rpc"
)

// Bounds of fetching images over the host link.
const (
	fetchesAtOnce  = 4 // others wait; fewer than the streams that a server grants one host
	fetchTries     = 12
	fetchPauseMin  = 250 * time.Millisecond
	fetchPauseMax  = 10 * time.Second // with fetchTries: about a minute without a byte, longer than a server's restart
	fetchStall     = 30 * time.Second // silence that ends one try
	fetchLogPeriod = 5 * time.Second
)

// fetcher brings images from the server over the host link.
type fetcher struct {
	open   func(ctx context.Context, name string, header []byte) (net.Conn, error)
	log    *slog.Logger
	places chan struct{}

	pause, stall time.Duration // first back-off, and fetchStall; tests shorten them
}

func newFetcher(open func(context.Context, string, []byte) (net.Conn, error), log *slog.Logger) *fetcher {
	return &fetcher{open: open, log: log, places: make(chan struct{}, fetchesAtOnce), pause: fetchPauseMin, stall: fetchStall}
}

// fetch implements imagecache.Fetch. What comes is not verified here.
func (f *fetcher) fetch(ctx context.Context, digest string, size uint64) (io.ReadCloser, error) {
	select {
	case f.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t := &transfer{f: f, digest: digest, size: size, pause: f.pause, begun: time.Now(), shown: time.Now()}
	t.ctx, t.cancel = context.WithCancel(ctx)
	return t, nil
}

// transfer reads one image through as many streams as it takes. Close may be called at any time; it ends a Read.
type transfer struct {
	f      *fetcher
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	digest string
	size   uint64

	// Of the reader alone:
	offset uint64
	fails  int // tries in a row that brought nothing
	pause  time.Duration
	begun  time.Time
	shown  time.Time // when progress was logged last

	mu     sync.Mutex
	stream net.Conn // nil between two tries
	closed bool
}

// Read goes on where the last byte was when a stream breaks, until fetchTries in a row have brought nothing.
func (t *transfer) Read(p []byte) (int, error) {
	for t.offset < t.size {
		n, err := t.try(p)
		if n > 0 {
			t.advance(n)
			return n, nil
		}
		if err := t.wait(err); err != nil {
			return 0, err
		}
	}
	return 0, io.EOF
}

// try reads from the stream, opening one if need be. After an error there is no stream.
func (t *transfer) try(p []byte) (int, error) {
	stream, err := t.current()
	if err != nil {
		return 0, err
	}
	if err = stream.SetReadDeadline(time.Now().Add(t.f.stall)); err == nil {
		var n int
		n, err = stream.Read(p[:min(uint64(len(p)), t.size-t.offset)])
		if n > 0 {
			return n, nil // an error shows again at the next read
		}
	}
	t.drop()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

func (t *transfer) current() (net.Conn, error) {
	t.mu.Lock()
	stream := t.stream
	t.mu.Unlock()
	if stream != nil {
		return stream, nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.f.stall)
	defer cancel()
	stream, err := t.f.open(ctx, host.StreamImage, host.Encode(host.ImageRequest{SHA256: t.digest, Offset: t.offset, Bytes: t.size - t.offset}))
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		stream.Close()
		return nil, net.ErrClosed
	}
	t.stream = stream
	return stream, nil
}

func (t *transfer) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream != nil {
		t.stream.Close()
		t.stream = nil
	}
}

// Close gives the transfer's place to another.
func (t *transfer) Close() error {
	t.cancel()
	t.drop()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		<-t.f.places
	}
	return nil
}

func (t *transfer) advance(n int) {
	t.offset += uint64(n)
	t.fails, t.pause = 0, t.f.pause
	switch now := time.Now(); {
	case t.offset == t.size:
		t.f.log.Info("image fetched", "image", t.digest, "bytes", t.size, "tookMs", now.Sub(t.begun).Milliseconds())
	case now.Sub(t.shown) >= fetchLogPeriod:
		t.shown = now
		t.f.log.Info("image is being fetched", "image", t.digest, "doneBytes", t.offset, "bytes", t.size)
	}
}

// wait pauses after a try that brought nothing; it fails when another would be of no use.
func (t *transfer) wait(cause error) error {
	var answer *rpc.Error
	refused := errors.As(cause, &answer)
	t.fails++
	switch {
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	case refused && answer.Code == host.ErrorImageAbsent:
		return fmt.Errorf("%w, nor with the server: %w", imagecache.ErrAbsent, cause)
	case refused && (answer.Code == rpc.CodeInvalid || answer.Code == rpc.CodeDenied), errors.Is(cause, dispatch.ErrUnknownStream):
		return cause
	case t.fails >= fetchTries:
		return fmt.Errorf("gave up at byte %d of %d after %d tries: %w", t.offset, t.size, t.fails, cause)
	}
	pause := t.pause/2 + rand.N(t.pause/2+1)
	t.pause = min(2*t.pause, fetchPauseMax)
	t.f.log.Info("image transfer broke", "image", t.digest, "doneBytes", t.offset, "bytes", t.size, "attempt", t.fails, "retryMs", pause.Milliseconds(), "err", cause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}
