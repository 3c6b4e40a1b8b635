package transactor

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/nimbrel/nimbrel/store"
)

// Row is the latest state of a key.
type Row struct {
	Value   store.Value
	Version store.Version
	Found   bool
}

// View is the latest state, with the effects of every commit evaluated before, durable or not. Its errors are those of
// the disk and end the engine.
type View interface {
	Get(key []byte) (Row, error)
	// Keys lists the keys of existing rows in [begin, end), ascending, at most limit.
	Keys(begin, end []byte, limit int) ([][]byte, error)
	// Changed returns a key of the range that was written or deleted after a version, with the version of that write,
	// or version 0 when there is none. A nil end means the one key begin.
	Changed(begin, end []byte, after store.Version) ([]byte, store.Version, error)
	// Floor is the least version from which Changed knows every write.
	Floor() store.Version
}

// Write is one row's new state.
type Write struct {
	Key     []byte
	Value   store.Value
	Deleted bool
}

// Effect is what a commit does. Writes are in key order, one per key; they and the version count only when the answer
// is OutcomeCommitted. Record is nil when the answer needs none.
type Effect struct {
	Answer *store.Answer
	Writes []Write
	Record *Record
}

// Input is one commit with what surrounds it.
type Input struct {
	Commit  *store.Commit
	History store.HistoryID // the engine's
	Digest  [16]byte        // of the commit's bytes
	NowMs   int64           // Unix time, never before that of an earlier input
	Next    store.Version   // what the commit gets when it is applied
	// MaxBytes bounds the transaction's keys and values.
	MaxBytes int
}

// Evaluate computes what a commit does. It changes neither view nor sessions; the caller applies the effect to both
// before the next call.
func Evaluate(v View, s *Sessions, in Input) (Effect, error) {
	c := in.Commit
	if refusal := check(c, in); refusal != nil {
		return Effect{Answer: refusal}, nil
	}
	if answer := s.lookup(c, in.Digest); answer != nil {
		return Effect{Answer: answer}, nil
	}
	if c.Cancel {
		return s.remember(in, Effect{Answer: &store.Answer{Outcome: store.OutcomeCancelled}}), nil
	}
	if answer, err := validate(v, in); answer != nil || err != nil {
		return Effect{Answer: answer}, err
	}
	if refusal := s.room(c); refusal != nil {
		return Effect{Answer: refusal}, nil
	}
	effect, err := newRun(v, in).evaluate()
	if err != nil {
		return effect, err
	}
	// A refusal that rests on the state is remembered too: a late copy could pass on a later state.
	return s.remember(in, effect), nil
}

// validate answers a conflict when something that was read has changed since.
func validate(v View, in Input) (*store.Answer, error) {
	c := in.Commit
	if len(c.Reads) > 0 && (c.ReadHistory != in.History || c.ReadVersion >= in.Next) {
		return store.Refuse(store.ReasonTooOld, "read at version %d of history %v, this is version %d of %v: start over",
			c.ReadVersion, c.ReadHistory, in.Next-1, in.History), nil
	}
	for _, r := range c.Reads {
		key, version, err := v.Changed(r.Begin, r.End, c.ReadVersion)
		if err != nil {
			return nil, fmt.Errorf("validate read of %q: %w", r.Begin, err)
		}
		if version != 0 {
			return &store.Answer{Outcome: store.OutcomeConflict, Key: key, Version: version}, nil
		}
	}
	// Asked last: the floor may have risen meanwhile, past deletions that Changed then did not see.
	if floor := v.Floor(); len(c.Reads) > 0 && c.ReadVersion < floor {
		return store.Refuse(store.ReasonTooOld, "read at version %d, history starts at %d: start over", c.ReadVersion, floor), nil
	}
	return nil, nil
}

// run evaluates the operations of one commit on an overlay.
type run struct {
	view    View
	in      Input
	writes  map[string]Write
	undo    []undo // what rolls writes back to a savepoint
	results []store.SlotResult
	removed int // rows of DeleteRange
}

type undo struct {
	key    string
	before Write
	had    bool
}

// guardFailed carries a failure through the evaluation.
type guardFailed struct{ *store.Failure }

func (f guardFailed) Error() string { return fmt.Sprintf("guard %d failed", f.Op) }

// refused carries a refusal through the evaluation; it ends the commit, also from inside a group.
type refused struct{ *store.Answer }

func (r refused) Error() string { return r.Detail }

func newRun(v View, in Input) *run {
	return &run{view: v, in: in, writes: map[string]Write{}, results: make([]store.SlotResult, countIndexes(in.Commit.Ops))}
}

func (r *run) evaluate() (Effect, error) {
	switch err := r.all(r.in.Commit.Ops).(type) {
	case nil:
	case guardFailed:
		return Effect{Answer: &store.Answer{Outcome: store.OutcomeGuardFailed, Version: r.in.Next - 1, Failure: err.Failure}}, nil
	case refused:
		return Effect{Answer: err.Answer}, nil
	default:
		return Effect{}, err
	}
	writes, err := r.changed()
	answer := &store.Answer{Outcome: store.OutcomeCommitted, Version: r.in.Next, Results: r.results}
	return Effect{Answer: answer, Writes: writes}, err
}

// changed lists the writes in key order, without deletions of rows that never existed.
func (r *run) changed() ([]Write, error) {
	writes := make([]Write, 0, len(r.writes))
	for _, w := range r.writes {
		if w.Deleted {
			row, err := r.view.Get(w.Key)
			if err != nil {
				return nil, err
			}
			if !row.Found {
				continue
			}
		}
		writes = append(writes, w)
	}
	slices.SortFunc(writes, func(a, b Write) int { return bytes.Compare(a.Key, b.Key) })
	return writes, nil
}

func (r *run) all(ops []store.Op) error {
	for i := range ops {
		if err := r.operation(&ops[i]); err != nil {
			return err
		}
	}
	return nil
}

// get reads a row inside the transaction.
func (r *run) get(key []byte) (Row, error) {
	if w, ok := r.writes[string(key)]; ok {
		return Row{Value: w.Value, Version: r.in.Next, Found: !w.Deleted}, nil
	}
	return r.view.Get(key)
}

func (r *run) put(key []byte, v store.Value) { r.write(Write{Key: key, Value: v}) }

func (r *run) putInt(key []byte, n int64) { r.put(key, store.IntValue(n)) }

func (r *run) write(w Write) {
	before, had := r.writes[string(w.Key)]
	r.undo = append(r.undo, undo{key: string(w.Key), before: before, had: had})
	r.writes[string(w.Key)] = w
}

func (r *run) rollback(savepoint int) {
	for len(r.undo) > savepoint {
		u := r.undo[len(r.undo)-1]
		r.undo = r.undo[:len(r.undo)-1]
		if u.had {
			r.writes[u.key] = u.before
		} else {
			delete(r.writes, u.key)
		}
	}
}

// fail reports that an operation's guard on a row does not hold.
func (r *run) fail(op *store.Op, key []byte) error {
	committed, err := r.view.Get(key)
	if err != nil {
		return err
	}
	inside, err := r.get(key)
	if err != nil {
		return err
	}
	return guardFailed{&store.Failure{
		Op: op.Index, Key: key, Found: committed.Found, Value: committed.Value, Version: committed.Version,
		InsideFound: inside.Found, Inside: inside.Value,
	}}
}

func refuse(reason store.Reason, format string, args ...any) error {
	return refused{store.Refuse(reason, format, args...)}
}
