package embed

import (
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// pipelineDepth is how many batches are applied and not yet durable: one that syncs and one that waits for the disk. More
// would split the queue into smaller batches without keeping the disk busier.
const pipelineDepth = 2

// expireEvery is the least pause between two walks over all records.
const expireEvery = 10 * time.Second

// flight is a batch of commits on its way to the disk, with their answers.
type flight struct {
	batch   *mvcc.Batch // nil when nothing was written
	waiters []*waiter
	answers []*store.Answer
	// committed are the transactions of the batch, for feeds; version is the newest state that any answer saw.
	committed []store.Batch
	version   store.Version
	written   uint64 // bytes of rows up to version
	applied   time.Time
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
	f := &flight{batch: e.state.NewBatch(), waiters: waiters, answers: make([]*store.Answer, 0, len(waiters))}
	now := e.options.Env.Clock.Now().UnixMilli()
	if now > e.expiredMs+expireEvery.Milliseconds() {
		e.must(f.batch.Drop(e.sessions.Expire(now)))
		e.expiredMs = now
	}
	e.nowMs = max(e.nowMs, now)
	for _, w := range waiters {
		f.answers = append(f.answers, e.evaluateOne(f, w, full))
	}
	f.version, f.written = e.version, e.written
	if f.batch.Empty() {
		e.must(f.batch.Discard())
		f.batch = nil
		return f
	}
	e.must(e.state.Apply(f.batch))
	f.applied = time.Now()
	e.recent.applied(e.version)
	return f
}

func (e *Engine) evaluateOne(f *flight, w *waiter, full bool) *store.Answer {
	if full {
		return store.Refuse(store.ReasonDiskFull, "less than %d bytes are free in %s: free some", e.options.ReserveBytes, e.dir)
	}
	effect, err := transactor.Evaluate(latest{e}, &e.sessions, transactor.Input{
		Commit: w.commit, History: e.state.History(), Digest: w.digest, NowMs: e.nowMs, Next: e.version + 1, MaxBytes: e.options.MaxTransactionBytes,
	})
	e.must(err)
	if effect.Record == nil {
		return effect.Answer
	}
	if effect.Answer.Outcome == store.OutcomeCommitted {
		e.version++
		e.written, err = f.batch.Write(e.version, e.nowMs, e.written, effect.Writes)
		e.must(err)
		e.recent.add(e.version, effect.Writes)
		f.committed = append(f.committed, e.transaction(effect.Writes))
	}
	e.must(f.batch.Record(effect.Record))
	e.must(f.batch.Drop(e.sessions.Keep(*effect.Record)))
	return effect.Answer
}

// transaction is what feeds show of the version just evaluated.
func (e *Engine) transaction(writes []transactor.Write) store.Batch {
	b := store.Batch{History: e.state.History(), Version: e.version, Changes: make([]store.Change, len(writes))}
	for i, w := range writes {
		b.Changes[i] = store.Change{Key: w.Key, Value: w.Value, Deleted: w.Deleted, Version: e.version}
	}
	return b
}

// sync waits for batches to be durable, in order, and only then lets anyone see what they hold.
func (e *Engine) sync() {
	for f := range e.flights {
		if f.batch != nil {
			e.must(f.batch.Wait())
			e.stats.synced(len(f.waiters), time.Since(f.applied))
			e.stats.wrote(f.committed)
		}
		wakeFollowers := e.durable.advance(f.version, f.written, f.committed)
		for i, w := range f.waiters {
			e.stats.answered(f.answers[i])
			w.finish(f.answers[i], nil)
		}
		wakeFollowers()
		<-e.slots
	}
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
