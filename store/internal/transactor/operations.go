package transactor

import (
	"errors"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/guard"
)

func (r *run) operation(op *store.Op) error {
	switch op.Kind {
	case store.OpDeleteRange:
		return r.deleteRange(op)
	case store.OpTake, store.OpTakeExact, store.OpGive, store.OpCreatePool:
		return r.poolOperation(op)
	case store.OpGroup, store.OpFirstOf, store.OpAtLeast:
		return r.combinator(op)
	}
	key, err := r.key(op.Key)
	if err != nil {
		return err
	}
	switch op.Kind {
	case store.OpPut:
		return r.putTemplate(key, op.Value)
	case store.OpDelete:
		r.write(Write{Key: key, Deleted: true})
		return nil
	}
	return r.guard(op, key)
}

// guard evaluates an operation on one row that may fail or has a result.
func (r *run) guard(op *store.Op, key []byte) error {
	row, err := r.get(key)
	if err != nil {
		return err
	}
	switch op.Kind {
	case store.OpInsertIfAbsent:
		if row.Found {
			return r.fail(op, key)
		}
		r.results[op.Index].Ran = true
		return r.putTemplate(key, op.Value)
	case store.OpExpect:
		if !op.Predicate.Holds(row.Value, row.Version, row.Found) {
			return r.fail(op, key)
		}
		r.results[op.Index].Ran = true
		return nil
	}
	if row.Found && row.Value.Kind != store.KindInt64 {
		return refuse(store.ReasonInvalid, "operation %d needs an integer row, %q holds bytes", op.Index, key)
	}
	return r.integer(op, key, row)
}

func (r *run) integer(op *store.Op, key []byte, row Row) error {
	n := row.Value.Int
	switch op.Kind {
	case store.OpAdd:
		sum, ok := guard.Sum(n, op.Delta, op.Min, op.Max)
		if !ok {
			return r.fail(op, key)
		}
		n = sum
	case store.OpMin:
		if !row.Found || op.Delta < n {
			n = op.Delta
		}
	case store.OpMax:
		if !row.Found || op.Delta > n {
			n = op.Delta
		}
	default:
		assert.That(false, "operation kind %d passed the check", op.Kind)
	}
	r.results[op.Index] = store.SlotResult{Ran: true, Int: n}
	r.putInt(key, n)
	return nil
}

func (r *run) putTemplate(key []byte, t store.Template) error {
	v, err := r.value(t)
	if err != nil {
		return err
	}
	r.put(key, v)
	return nil
}

func (r *run) deleteRange(op *store.Op) error {
	begin := string(op.Key.Base)
	end := string(op.End)
	for key, w := range r.writes {
		if key >= begin && key < end && !w.Deleted {
			r.write(Write{Key: w.Key, Deleted: true})
		}
	}
	keys, err := r.view.Keys(op.Key.Base, op.End, store.MaxDeletedRows+1)
	if err != nil {
		return err
	}
	r.removed += len(keys)
	if r.removed > store.MaxDeletedRows {
		return refuse(store.ReasonTooLarge, "operation %d removes too many rows, at most %d in a transaction: "+
			"remove them in parts", op.Index, store.MaxDeletedRows)
	}
	for _, key := range keys {
		r.write(Write{Key: key, Deleted: true})
	}
	return nil
}

func (r *run) combinator(op *store.Op) error {
	var cause *store.Failure
	ran := 0
	for i := range op.Groups {
		g := &op.Groups[i]
		failure, err := r.group(g)
		if err != nil {
			return err
		}
		if failure != nil {
			if cause == nil {
				cause = failure
			}
			continue
		}
		ran++
		r.results[g.Index].Ran = true
		if op.Kind == store.OpFirstOf {
			r.results[op.Index] = store.SlotResult{Ran: true, Label: g.Label}
			return nil
		}
	}
	if op.Kind == store.OpFirstOf || (op.Kind == store.OpAtLeast && ran < int(op.N)) {
		return guardFailed{combined(op, cause)}
	}
	r.results[op.Index] = store.SlotResult{Ran: true, Int: int64(ran)}
	return nil
}

// combined is the failure of a combinator: its row is that of the cause. There is none when there were too few groups.
func combined(op *store.Op, cause *store.Failure) *store.Failure {
	if cause == nil {
		return &store.Failure{Op: op.Index}
	}
	f := *cause
	f.Op, f.Cause = op.Index, cause
	return &f
}

// group runs a group whole or leaves no trace of it.
func (r *run) group(g *store.Group) (*store.Failure, error) {
	savepoint, removed := len(r.undo), r.removed
	err := r.all(g.Ops)
	var failed guardFailed
	if !errors.As(err, &failed) {
		return nil, err
	}
	r.rollback(savepoint)
	r.removed = removed
	clear(r.results[g.Index : g.Index+1+uint32(countIndexes(g.Ops))])
	return failed.Failure, nil
}

// countIndexes counts operations and groups, nested ones included.
func countIndexes(ops []store.Op) int {
	n := len(ops)
	for i := range ops {
		for j := range ops[i].Groups {
			n += 1 + countIndexes(ops[i].Groups[j].Ops)
		}
	}
	return n
}
