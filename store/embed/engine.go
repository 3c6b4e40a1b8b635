package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/core"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

var (
	// ErrLocked says that another process has the directory open.
	ErrLocked = mvcc.ErrLocked
	// ErrNoStore says that there is no store in a directory that was to be opened read only.
	ErrNoStore = mvcc.ErrNoStore
	// ErrNewerFormat says that a newer program wrote the directory.
	ErrNewerFormat = mvcc.ErrNewerFormat
)

// Options of an engine. The zero value of a field takes its default.
type Options struct {
	// FS defaults to the machine's file system, Env to its clock and randomness, Log to slog's default.
	FS  vfs.FS
	Env env.Env
	Log *slog.Logger
	// ReadOnly opens an existing directory without changing it: commits are refused.
	ReadOnly bool
	// MaxTransactionBytes defaults to store.MaxTransactionBytes, at most store.MaxTransactionBytesLimit.
	MaxTransactionBytes int
	// History and HistoryBytes bound the history that is kept. Defaults 5 min and 1 GiB.
	History      time.Duration
	HistoryBytes uint64
	// Lease is how long a snapshot holds history. Default 5 min.
	Lease time.Duration
	// CollectEvery is the pause between two collections of history. Default 1 s.
	CollectEvery time.Duration
	// QueueCommits bounds the commits that wait, TenantCommits those of one tenant. Defaults 16,384 and 4,096.
	QueueCommits  int
	TenantCommits int
	// BatchCommits bounds one group commit. Default 2,048.
	BatchCommits int
	// RecentRows bounds the rows kept decoded for the transactor, FeedBytes the transactions kept for feeds; older
	// ones are read from disk. Defaults 65,536 rows and 16 MiB.
	RecentRows int
	FeedBytes  int
	// CacheBytes bounds the blocks of tables kept in memory, MemTableBytes what waits in memory to become a table, of which
	// there may be two. Defaults 64 MiB and 32 MiB.
	CacheBytes    int64
	MemTableBytes uint64
	// ReserveBytes is the free space below which commits are refused as ReasonDiskFull. Default 128 MiB.
	ReserveBytes uint64
	// Fatal is called when the disk fails; it must not return. Default: panic.
	Fatal func(error)
}

func (o *Options) fill() error {
	if o.Env.Clock == nil {
		o.Env = env.System()
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	orDefault(&o.MaxTransactionBytes, store.MaxTransactionBytes)
	orDefault(&o.History, 5*time.Minute)
	orDefault(&o.HistoryBytes, 1<<30)
	orDefault(&o.Lease, 5*time.Minute)
	orDefault(&o.CollectEvery, time.Second)
	orDefault(&o.QueueCommits, 16384)
	orDefault(&o.TenantCommits, 4096)
	orDefault(&o.BatchCommits, 2048)
	orDefault(&o.RecentRows, 65536)
	orDefault(&o.FeedBytes, 16<<20)
	orDefault(&o.ReserveBytes, 128<<20)
	orDefault(&o.CacheBytes, 64<<20)
	orDefault(&o.MemTableBytes, 32<<20)
	if o.MaxTransactionBytes > store.MaxTransactionBytesLimit {
		return fmt.Errorf("MaxTransactionBytes %d: at most %d", o.MaxTransactionBytes, store.MaxTransactionBytesLimit)
	}
	return nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Engine is an open directory. Safe for concurrent use.
type Engine struct {
	options Options
	dir     string
	state   *mvcc.State
	queue   *queue
	durable *durable
	stats   stats

	leases leases

	// Owned by the transactor goroutine.
	core    *core.Core
	written uint64 // bytes of rows up to the newest version evaluated

	flights   chan *flight // to the syncer, in order
	slots     chan struct{}
	diskFull  chan bool // latest reading, for the transactor
	stop      chan struct{}
	goroutine sync.WaitGroup

	collecting    sync.Mutex  // held while history is removed, and while nothing may be
	checkpointing atomic.Bool // there is a Checkpoint

	closing  sync.Once
	closeErr error
}

var _ store.Engine = (*Engine)(nil)

// Open opens the store in a directory, or creates it.
func Open(dir string, o Options) (*Engine, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	now := o.Env.Clock.Now().UnixMilli()
	state, err := mvcc.Open(dir, mvcc.Options{
		FS: o.FS, ReadOnly: o.ReadOnly, Random: o.Env.Random, NowMs: now, Logger: pebbleLog{o.Log, o.Fatal},
		CacheBytes: o.CacheBytes, MemTableBytes: o.MemTableBytes,
	})
	if err != nil {
		return nil, err
	}
	last := state.Last()
	e := &Engine{
		options: o, dir: dir, state: state, queue: newQueue(o.QueueCommits, o.TenantCommits),
		durable: newDurable(last.Version, last.Written, o.FeedBytes), leases: leases{open: map[*snapshot]struct{}{}},
		written: last.Written, flights: make(chan *flight, pipelineDepth),
		slots: make(chan struct{}, pipelineDepth), diskFull: make(chan bool, 1), stop: make(chan struct{}),
	}
	e.core, err = core.New(base{state}, core.Options{
		History: state.History(), MaxBytes: o.MaxTransactionBytes, RecentRows: o.RecentRows, ExpireEveryMs: expireEvery.Milliseconds(),
	}, core.Mark{Version: last.Version, TimeMs: max(now, last.TimeMs)})
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	if !o.ReadOnly {
		e.sweepCheckpoints()
	}
	e.start()
	return e, nil
}

func (e *Engine) start() {
	e.goroutine.Go(e.transact)
	e.goroutine.Go(e.sync)
	if !e.options.ReadOnly {
		e.goroutine.Go(e.maintain)
	}
}

// Commit puts a commit in the queue and waits for its answer. When ctx ends first, the commit is withdrawn if the
// transactor has not taken it, else its outcome is unknown.
func (e *Engine) Commit(ctx context.Context, c *store.Commit) (*store.Answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if e.options.ReadOnly {
		return store.Refuse(store.ReasonInvalid, "the store is open read only"), nil
	}
	digest, err := transactor.Digest(c)
	if err != nil {
		return nil, err
	}
	w := &waiter{commit: c, digest: digest, done: make(chan struct{})}
	if answer, err := e.queue.push(w); answer != nil || err != nil {
		return answer, err
	}
	select {
	case <-w.done:
		return w.answer, w.err
	case <-ctx.Done():
		if e.queue.withdraw(w) {
			return nil, fmt.Errorf("commit %v was not begun: %w", c.ID, ctx.Err())
		}
		return nil, fmt.Errorf("commit %v: %w: %w", c.ID, store.ErrUnknown, ctx.Err())
	}
}

// History returns the id of the store's line of versions.
func (e *Engine) History() store.HistoryID { return e.state.History() }

// Options returns the engine's options with their defaults filled in.
func (e *Engine) Options() Options { return e.options }

// Close lets the commits under way finish, and closes the directory. Feeds and snapshots end with ErrClosed.
func (e *Engine) Close() error {
	e.closing.Do(func() {
		e.queue.close()
		close(e.stop)
		e.goroutine.Wait()
		e.durable.close()
		e.leases.close()
		e.closeErr = e.state.Close()
	})
	return e.closeErr
}

// pebbleLog passes what Pebble says on: its fatal errors are ours.
type pebbleLog struct {
	log   *slog.Logger
	fatal func(error)
}

func (l pebbleLog) Infof(format string, args ...any) {}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("storage engine error", "err", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf("store disk: "+format, args...))
}
