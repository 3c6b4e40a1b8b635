package core

import (
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// Position names one batch of the log. A core numbers its batches from 1 in its term and never gives a number again, not
// even that of a lost batch: a batch that is late finds its base gone.
type Position struct{ Term, Entry uint64 }

// Mark is the end of a log: its last batch, the version of the state there, and the log's time in Unix ms.
type Mark struct {
	At      Position
	Version store.Version
	TimeMs  int64
}

// Base is the state below the core. It shows the batches up to the last Shown at least, and none beyond those appended.
// Its errors are those of the disk and end the engine.
type Base interface {
	transactor.View
	// Records calls fn with every record of the state.
	Records(fn func(transactor.Record)) error
}

// Options of a core.
type Options struct {
	// Term must be new to the log each time a core starts on it.
	Term    uint64
	History store.HistoryID
	// MaxBytes bounds a transaction, see transactor.Input.
	MaxBytes int
	// RecentRows bounds the rows of shown batches that are kept decoded.
	RecentRows int
	// ExpireEveryMs is the least log time between two walks over all records.
	ExpireEveryMs int64
}

// Core evaluates commits. Not safe for concurrent use.
type Core struct {
	options  Options
	base     Base
	sessions transactor.Sessions
	recent   recent
	// last is the newest batch appended, with the time of the last tick.
	last      Mark
	entry     uint64
	expiredMs int64 // log time when expired records were last dropped
}

// Input is one commit and the digest of its bytes, see transactor.Digest.
type Input struct {
	Commit *store.Commit
	Digest [16]byte
}

// Batch is what one Append gives to the log. It is not changed any more.
type Batch struct {
	// Base is the last batch of the log that this one was evaluated on, see Follows; At is its own position, equal to
	// Base when there is nothing to append.
	Base, At Position
	// Version and TimeMs are those of the state after it. TimeMs must survive with the batch.
	Version store.Version
	TimeMs  int64
	// Expired are records to drop first; then come the steps in order.
	Expired []transactor.RecordKey
	Steps   []Step
	answers []*store.Answer
}

// Step is what one commit leaves behind: its record, the records that it acknowledges, and when Version is not 0 the rows
// of that version.
type Step struct {
	Version store.Version
	Writes  []transactor.Write
	Record  *transactor.Record
	Drops   []transactor.RecordKey
}

// Empty tells whether there is nothing to append.
func (b *Batch) Empty() bool { return len(b.Steps) == 0 && len(b.Expired) == 0 }

// Follows tells whether the batch applies to a log that ends at a position. One that does not is passed over by everybody
// who reads the log, and so are those that build on it.
func (b *Batch) Follows(last Position) bool { return b.Base == last }

// New returns a core on a base that ends at a mark, where all of it is durable.
func New(base Base, o Options, last Mark) (*Core, error) {
	c := &Core{options: o, base: base}
	return c, c.load(last)
}

// load takes what the core knows from the base.
func (c *Core) load(last Mark) error {
	last.TimeMs = max(last.TimeMs, c.last.TimeMs)
	c.last = last
	c.recent = newRecent(last.Version, c.options.RecentRows)
	c.sessions = transactor.Sessions{}
	return c.base.Records(func(r transactor.Record) { c.sessions.Keep(r) })
}

// Tick moves the log's time on. A time before that of an earlier tick changes nothing.
func (c *Core) Tick(nowMs int64) { c.last.TimeMs = max(c.last.TimeMs, nowMs) }

// Append evaluates commits one after the other on the newest state. The caller gives the batch to the log, unless it is
// empty, and to the Outbox in any case.
func (c *Core) Append(inputs []Input) (*Batch, error) {
	b := &Batch{Base: c.last.At, answers: make([]*store.Answer, 0, len(inputs)), Steps: make([]Step, 0, len(inputs))}
	if now := c.last.TimeMs; now > c.expiredMs+c.options.ExpireEveryMs {
		b.Expired = c.sessions.Expire(now)
		c.expiredMs = now
	}
	for _, in := range inputs {
		if err := c.evaluate(b, in); err != nil {
			return nil, err
		}
	}
	if !b.Empty() {
		c.entry++
		c.last.At = Position{Term: c.options.Term, Entry: c.entry}
	}
	b.At, b.Version, b.TimeMs = c.last.At, c.last.Version, c.last.TimeMs
	return b, nil
}

func (c *Core) evaluate(b *Batch, in Input) error {
	effect, err := transactor.Evaluate(latest{c}, &c.sessions, transactor.Input{
		Commit: in.Commit, History: c.options.History, Digest: in.Digest, NowMs: c.last.TimeMs,
		Next: c.last.Version + 1, MaxBytes: c.options.MaxBytes,
	})
	if err != nil {
		return err
	}
	b.answers = append(b.answers, effect.Answer)
	if effect.Record == nil {
		return nil
	}
	s := Step{Record: effect.Record, Drops: c.sessions.Keep(*effect.Record)}
	if effect.Answer.Outcome == store.OutcomeCommitted {
		c.last.Version++
		s.Version, s.Writes = c.last.Version, effect.Writes
		c.recent.add(s.Version, s.Writes)
	}
	b.Steps = append(b.Steps, s)
	return nil
}

// Shown says that the base shows everything up to a version.
func (c *Core) Shown(v store.Version) { c.recent.shows(v) }

// Lost says that batches were lost, and that the base ends at a mark again, without anything of them. What the core knew
// of them is forgotten; the Outbox has to hear of it too.
func (c *Core) Lost(last Mark) error { return c.load(last) }
