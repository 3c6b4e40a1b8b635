package embed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// ErrBusy says that another checkpoint is under way.
var ErrBusy = errors.New("another backup is under way: wait for it")

// checkpointMark is between a store's name and a number in the name of its checkpoint, which stands beside it.
const checkpointMark = ".checkpoint-"

// Checkpoint is the store as it was at one durable version, on files that never change. It keeps the disk space of the
// tables it shares with the store, also of those that the store replaces meanwhile: close it soon.
type Checkpoint struct {
	History store.HistoryID
	Version store.Version
	Format  uint64
	Files   []CheckpointFile
	// Paused is for how long no commit was begun.
	Paused time.Duration

	engine *Engine
	dir    string
}

// CheckpointFile is one file of a checkpoint.
type CheckpointFile struct {
	Name  string
	Bytes int64
}

// Checkpoint makes one while the store goes on: commits rest while its tables are linked, after what waits in memory was
// written without such a rest. There is one at a time, else ErrBusy.
func (e *Engine) Checkpoint(ctx context.Context) (*Checkpoint, error) {
	if e.options.ReadOnly {
		return nil, errors.New("make checkpoint: the store is open read only")
	}
	if err := e.leases.begin(); err != nil {
		return nil, err
	}
	defer e.leases.reads.Done()
	if !e.checkpointing.CompareAndSwap(false, true) {
		return nil, ErrBusy
	}
	c := &Checkpoint{engine: e, History: e.state.History(), Format: mvcc.Format, dir: e.checkpointName()}
	err := e.state.Flush()
	if err == nil {
		err = e.quiet(ctx, c)
	}
	if err == nil {
		c.Files, err = filesOf(e.options, c.dir)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (e *Engine) checkpointName() string {
	return e.dir + checkpointMark + strconv.FormatInt(e.options.Env.Clock.Now().UnixNano(), 36)
}

// quiet makes the checkpoint's directory between two batches: with every slot taken, none is applied and not durable.
func (e *Engine) quiet(ctx context.Context, c *Checkpoint) error {
	e.collecting.Lock()
	defer e.collecting.Unlock()
	taken := 0
	defer func() {
		for range taken {
			<-e.slots
		}
	}()
	begun := time.Now()
	for ; taken < cap(e.slots); taken++ {
		select {
		case e.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("make checkpoint: %w", ctx.Err())
		}
	}
	c.Version, _, _ = e.durable.now()
	err := e.state.Checkpoint(c.dir)
	c.Paused = time.Since(begun)
	return err
}

func filesOf(o Options, dir string) ([]CheckpointFile, error) {
	names, err := o.FS.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list checkpoint: %w", err)
	}
	slices.Sort(names)
	var files []CheckpointFile
	for _, name := range names {
		info, err := o.FS.Stat(o.FS.PathJoin(dir, name))
		if err != nil {
			return nil, fmt.Errorf("list checkpoint: %w", err)
		}
		files = append(files, CheckpointFile{Name: name, Bytes: info.Size()})
	}
	return files, nil
}

// Open opens one of the files.
func (c *Checkpoint) Open(name string) (io.ReadCloser, error) {
	return c.engine.options.FS.Open(c.engine.options.FS.PathJoin(c.dir, name))
}

// Close removes the checkpoint.
func (c *Checkpoint) Close() error {
	defer c.engine.checkpointing.Store(false)
	if err := c.engine.options.FS.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove checkpoint %s: %w", c.dir, err)
	}
	return nil
}

// sweepCheckpoints removes what a process left that ended with a checkpoint. Nobody else makes any: the directory is
// locked.
func (e *Engine) sweepCheckpoints() {
	fs := e.options.FS
	above, base := fs.PathDir(e.dir), fs.PathBase(e.dir)
	names, err := fs.List(above)
	if err != nil {
		return // a folder that this user may not list is not where checkpoints were made
	}
	for _, name := range names {
		number, found := strings.CutPrefix(name, base+checkpointMark)
		if _, err := strconv.ParseInt(number, 36, 64); !found || err != nil {
			continue
		}
		if err := fs.RemoveAll(fs.PathJoin(above, name)); err != nil {
			e.options.Log.Warn("old checkpoint is not removed", "path", name, "err", err)
		}
	}
}
