package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/server"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// serve serves an engine on a unix socket until the test ends or stop is called.
func serve(t testing.TB, e store.Engine, o server.Options) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	return socket, serveAt(t, e, socket, o)
}

func serveAt(t testing.TB, e store.Engine, socket string, o server.Options) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = s.Close(ctx) // what is under way is cut off
	}
	t.Cleanup(stop)
	return stop
}

func dialer(socket string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
}

func open(t testing.TB) *embed.Engine {
	t.Helper()
	e, err := embed.Open(t.TempDir(), embed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestConformance(t *testing.T) {
	storetest.RunConformance(t, func() store.Engine {
		socket, _ := serve(t, open(t), server.Options{})
		return New(t.Context(), Options{Dial: dialer(socket)})
	})
}

// TestConformanceCut holds the contract while connections break, each after one frame more than the one before it, from
// either end.
func TestConformanceCut(t *testing.T) {
	var cuts atomic.Int64
	storetest.RunConformance(t, func() store.Engine {
		socket, _ := serve(t, storetest.NewMemory(), server.Options{})
		var n atomic.Int64
		return resending{New(t.Context(), Options{BackoffMax: 10 * time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
			nc, err := dialer(socket)(ctx)
			if err != nil {
				return nil, err
			}
			if n.Load()%7 == 3 { // a second attempt that nobody uses
				if other, err := dialer(socket)(ctx); err == nil {
					other.Close()
				}
			}
			// The first two frames of each end are the hellos and their like.
			return cutAfter(nc, 3+n.Add(1)%90, &cuts), nil
		}})}
	})
	if cuts.Load() < 100 {
		t.Errorf("only %d connections were cut", cuts.Load())
	}
}

// resending asks again after an unknown outcome, as the contract says. One arises here when a commit that was acknowledged is
// sent once more and its answer is lost: the refusal of the next copy does not tell what became of the commit.
type resending struct{ store.Engine }

func (r resending) Commit(ctx context.Context, c *store.Commit) (*store.Answer, error) {
	for {
		if a, err := r.Engine.Commit(ctx, c); !errors.Is(err, store.ErrUnknown) || ctx.Err() != nil {
			return a, err
		}
	}
}

// cutAfter puts a proxy before a connection that ends it after so many frames, of both directions together. The last frame
// arrives in half.
func cutAfter(nc net.Conn, frames int64, cuts *atomic.Int64) net.Conn {
	near, far := net.Pipe()
	left := new(atomic.Int64)
	left.Store(frames)
	forward := func(dst, src net.Conn) {
		defer dst.Close()
		defer src.Close()
		for {
			head := make([]byte, 32)
			if _, err := io.ReadFull(src, head); err != nil {
				return
			}
			frame := append(head, make([]byte, binary.LittleEndian.Uint32(head))...)
			if _, err := io.ReadFull(src, frame[32:]); err != nil {
				return
			}
			n := left.Add(-1)
			if n <= 0 {
				frame = frame[:len(frame)/2]
				cuts.Add(1)
			}
			if _, err := dst.Write(frame); err != nil || n <= 0 {
				return
			}
		}
	}
	go forward(nc, far)
	go forward(far, nc)
	return near
}

// TestSnapshotOutlivesConnection reads on after a reconnection, and learns by name that a snapshot is gone.
func TestSnapshotOutlivesConnection(t *testing.T) {
	ctx, e := t.Context(), open(t)
	socket, stop := serve(t, e, server.Options{})
	c := New(t.Context(), Options{Dial: dialer(socket)})
	defer c.Close()
	db := store.New(c, store.Options{Tenant: "t"})
	put := func(n int64) {
		t.Helper()
		if _, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Put(store.Key("a"), store.Int(n)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	s, err := c.Snapshot(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	put(2)
	l, err := c.connection(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	whole := append(store.HandlePrefix(0, "t"), store.Prefix("a")...)
	if v, _, found, err := s.Get(ctx, whole); err != nil || !found || v.Int != 1 {
		t.Errorf("after a reconnection: %v %v %v", v, found, err)
	}
	stop()
	serveAt(t, e, socket, server.Options{})
	if _, _, _, err := s.Get(ctx, whole); !errors.Is(err, ErrSnapshotLost) || !errors.Is(err, store.ErrTooOld) {
		t.Errorf("after a restart: %v", err)
	}
	put(3) // a new server, the same client
}

// TestUnavailable ends in its time and says whether anything may have been applied.
func TestUnavailable(t *testing.T) {
	c := New(t.Context(), Options{Dial: dialer(filepath.Join(t.TempDir(), "none")), RetryFor: 50 * time.Millisecond})
	defer c.Close()
	commit := &store.Commit{ID: store.CommitID{Session: store.SessionID{1}, Seq: 1, Attempt: 1}}
	if _, err := c.Commit(t.Context(), commit); !errors.Is(err, ErrUnavailable) || errors.Is(err, store.ErrUnknown) {
		t.Errorf("no server: %v", err)
	}
	if _, err := c.Snapshot(t.Context(), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
}

// TestUnknown loses the answer of a commit and every connection after it.
func TestUnknown(t *testing.T) {
	socket, _ := serve(t, mute{storetest.NewMemory()}, server.Options{})
	c := New(t.Context(), Options{Dial: dialer(socket), RetryFor: 100 * time.Millisecond})
	defer c.Close()
	commit := &store.Commit{ID: store.CommitID{Session: store.SessionID{1}, Seq: 1, Attempt: 1}}
	if _, err := c.Commit(t.Context(), commit); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("answers lost: %v", err)
	}
}

// mute says of every commit that its outcome is unknown.
type mute struct{ store.Engine }

func (mute) Commit(context.Context, *store.Commit) (*store.Answer, error) {
	return nil, store.ErrUnknown
}

// TestSnapshotBound refuses snapshots beyond the bound until some are released.
func TestSnapshotBound(t *testing.T) {
	socket, _ := serve(t, storetest.NewMemory(), server.Options{MaxClientSnapshots: 2})
	c := New(t.Context(), Options{Dial: dialer(socket), RetryFor: 200 * time.Millisecond})
	defer c.Close()
	var open []store.Snapshot
	for range 2 {
		s, err := c.Snapshot(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	if _, err := c.Snapshot(t.Context(), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a third: %v", err)
	}
	open[0].Release()
	patient := store.New(c, store.Options{})
	for deadline := time.Now().Add(time.Minute); ; {
		_, err := patient.Version(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a release: %v", err)
		}
	}
}

// BenchmarkHotAdd adds to one counter from 64 goroutines, embedded and over a unix socket.
func BenchmarkHotAdd(b *testing.B) {
	add := func(b *testing.B, e store.Engine) {
		db := store.New(e, store.Options{Tenant: "t"})
		b.SetParallelism(64 / runtime.GOMAXPROCS(0))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := db.Transact(b.Context(), func(tx *store.Tx) error {
					tx.Add(store.Key("n"), 1, 0, math.MaxInt64)
					return nil
				}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.Run("embedded", func(b *testing.B) { add(b, open(b)) })
	b.Run("remote", func(b *testing.B) {
		socket, _ := serve(b, open(b), server.Options{})
		c := New(b.Context(), Options{Dial: dialer(socket)})
		defer c.Close()
		add(b, c)
	})
}
