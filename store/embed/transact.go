package embed

import (
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/core"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// pipelineDepth is how many batches are applied and not yet durable: one that syncs and one that waits for the disk. More
// would split the queue into smaller batches without keeping the disk busier.
const pipelineDepth = 2

// expireEvery is the least pause between two walks over all records.
const expireEvery = 10 * time.Second

// flight is a batch of commits on its way to the disk.
type flight struct {
	waiters []*waiter
	batch   *core.Batch
	disk    *mvcc.Batch // nil when nothing was written
	written uint64      // bytes of rows up to the batch's version
	applied time.Time
	// refusals stand in for the batch while the disk is full: they rest on no state.
	refusals []*store.Answer
}

// transact is the transactor: it ends when the queue is closed and empty.
func (e *Engine) transact() {
	defer close(e.flights)
	full := false
	for range e.queue.ready {
		// Taking the slot first lets the queue grow while the disk is busy: batches are as large as they can be.
		e.slots <- struct{}{}
		select {
		case full = <-e.diskFull:
		default:
		}
		if waiters := e.queue.take(e.options.BatchCommits); len(waiters) > 0 {
			e.flights <- e.evaluate(waiters, full)
		} else {
			<-e.slots
		}
		if e.queue.drained() {
			return
		}
	}
}

// evaluate computes a batch on the latest state and applies it, not yet durable.
func (e *Engine) evaluate(waiters []*waiter, full bool) *flight {
	if full {
		return &flight{waiters: waiters, refusals: e.refuseFull(len(waiters))}
	}
	inputs := make([]core.Input, len(waiters))
	for i, w := range waiters {
		inputs[i] = core.Input{Commit: w.commit, Digest: w.digest}
	}
	e.core.Tick(e.options.Env.Clock.Now().UnixMilli())
	batch, err := e.core.Append(inputs)
	e.must(err)
	f := &flight{waiters: waiters, batch: batch}
	if !batch.Empty() {
		f.disk = e.state.NewBatch()
		e.must(e.write(f.disk, batch))
		e.must(e.state.Apply(f.disk))
		f.applied = time.Now()
		e.core.Shown(batch.Version)
	}
	f.written = e.written
	return f
}

func (e *Engine) refuseFull(n int) []*store.Answer {
	out := make([]*store.Answer, n)
	for i := range out {
		out[i] = store.Refuse(store.ReasonDiskFull, "less than %d bytes are free in %s: free some", e.options.ReserveBytes, e.dir)
	}
	return out
}

// write puts what a batch changes into what goes to the disk.
func (e *Engine) write(disk *mvcc.Batch, b *core.Batch) (err error) {
	if err := disk.Drop(b.Expired); err != nil {
		return err
	}
	for _, s := range b.Steps {
		if s.Version != 0 {
			if e.written, err = disk.Write(s.Version, b.TimeMs, e.written, s.Writes); err != nil {
				return err
			}
		}
		if err := disk.Record(s.Record); err != nil {
			return err
		}
		if err := disk.Drop(s.Drops); err != nil {
			return err
		}
	}
	return nil
}

// committed are a batch's transactions as feeds show them.
func (e *Engine) committed(b *core.Batch) []store.Batch {
	out := make([]store.Batch, 0, len(b.Steps))
	for _, s := range b.Steps {
		if s.Version == 0 {
			continue
		}
		t := store.Batch{History: e.state.History(), Version: s.Version, Changes: make([]store.Change, len(s.Writes))}
		for i, w := range s.Writes {
			t.Changes[i] = store.Change{Key: w.Key, Value: w.Value, Deleted: w.Deleted, Version: s.Version}
		}
		out = append(out, t)
	}
	return out
}

// sync waits for batches to be durable, in order, and only then lets anyone see what they hold.
func (e *Engine) sync() {
	outbox := core.NewOutbox(core.Mark{Version: e.state.Last().Version})
	for f := range e.flights {
		answers := f.refusals
		wakeFollowers := func() {}
		if f.batch != nil {
			committed := e.committed(f.batch) // while the disk syncs
			released := outbox.Add(f.batch)
			if f.disk != nil {
				e.must(f.disk.Wait())
				e.stats.synced(len(f.waiters), time.Since(f.applied))
				e.stats.wrote(committed)
				released = outbox.Durable(f.batch.At)
			}
			assert.That(len(released) == 1 && released[0].Batch == f.batch, "%d batches are released", len(released))
			answers = released[0].Answers
			wakeFollowers = e.durable.advance(outbox.Version(), f.written, committed)
		}
		for i, w := range f.waiters {
			e.stats.answered(answers[i])
			w.finish(answers[i], nil)
		}
		wakeFollowers()
		<-e.slots
	}
}

// base is the state as Pebble shows it.
type base struct{ *mvcc.State }

var _ core.Base = base{}

const newest = ^store.Version(0)

func (b base) Get(key []byte) (transactor.Row, error) { return b.State.Get(key, newest) }

func (b base) Keys(begin, end []byte, limit int) ([][]byte, error) {
	return b.State.Keys(begin, end, limit, newest)
}

// must ends the process when the disk failed: the state in memory and on disk may differ from here on.
func (e *Engine) must(err error) {
	if err == nil {
		return
	}
	err = fmt.Errorf("store %s: the disk failed, restart to recover what is durable: %w", e.dir, err)
	e.options.Log.Error("store disk failed", "path", e.dir, "err", err)
	e.options.Fatal(err)
	panic(err)
}
