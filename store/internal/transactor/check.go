package transactor

import (
	"bytes"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/pool"
)

// checker verifies a commit's form before anything is evaluated: a commit is outside input.
type checker struct {
	bytes, ops, guards int
	// kinds holds for each index so far what slot it makes visible here; 0 none.
	kinds []store.SlotKind
	err   error
}

// check answers a refusal for a commit that is too large, expired or malformed.
func check(c *store.Commit, in Input) *store.Answer {
	switch {
	case in.NowMs > c.NotAfterMs:
		return store.Refuse(store.ReasonExpired, "the commit was valid until %d, now is %d (Unix ms)", c.NotAfterMs, in.NowMs)
	case c.NotAfterMs > in.NowMs+store.MaxCommitLifetime.Milliseconds():
		return store.Refuse(store.ReasonInvalid, "NotAfterMs is more than %v ahead", store.MaxCommitLifetime)
	case c.ID.Seq == 0 || c.ID.Attempt == 0:
		return store.Refuse(store.ReasonInvalid, "commit id: sequence and attempt start at 1")
	case c.AckedBelow > c.ID.Seq:
		return store.Refuse(store.ReasonInvalid, "commit %v acknowledges itself: AckedBelow is %d", c.ID, c.AckedBelow)
	case len(c.Reads) > store.MaxReadRanges:
		return store.Refuse(store.ReasonTooLarge, "%d read ranges, at most %d", len(c.Reads), store.MaxReadRanges)
	}
	k := &checker{}
	for _, r := range c.Reads {
		k.bytes += len(r.Begin) + len(r.End)
	}
	k.operations(c.Ops, 0)
	if k.bytes > in.MaxBytes {
		k.fail(store.ReasonTooLarge, "transaction of %d bytes, at most %d", k.bytes, in.MaxBytes)
	}
	if r, ok := k.err.(refused); ok {
		return r.Answer
	}
	return nil
}

func (k *checker) fail(reason store.Reason, format string, args ...any) {
	if k.err == nil {
		k.err = refuse(reason, format, args...)
	}
}

func (k *checker) operations(ops []store.Op, depth int) {
	for i := range ops {
		if k.err != nil {
			return
		}
		k.operation(&ops[i], depth)
	}
}

func (k *checker) operation(op *store.Op, depth int) {
	k.count(op)
	k.enter(op.Index)
	k.key(op.Key)
	switch op.Kind {
	case store.OpPut, store.OpInsertIfAbsent:
		k.value(op.Value)
	case store.OpDelete, store.OpAdd, store.OpMin, store.OpMax:
	case store.OpDeleteRange:
		k.constant(op)
		k.bytes += len(op.End)
		if bytes.Compare(op.Key.Base, op.End) >= 0 {
			k.fail(store.ReasonInvalid, "operation %d: DeleteRange ends before it begins", op.Index)
		}
	case store.OpExpect:
		k.predicate(op)
	case store.OpTake, store.OpTakeExact, store.OpGive, store.OpCreatePool:
		k.constant(op)
		k.pool(op)
	case store.OpGroup, store.OpFirstOf, store.OpAtLeast:
		k.combinator(op, depth+1)
	default:
		k.fail(store.ReasonInvalid, "operation %d has unknown kind %d: the engine is older than the client", op.Index, op.Kind)
	}
	if k.err == nil {
		k.kinds[op.Index] = slotOf(op.Kind)
	}
}

func slotOf(kind store.OpKind) store.SlotKind {
	switch kind {
	case store.OpAdd, store.OpMin, store.OpMax, store.OpAtLeast:
		return store.SlotInt
	case store.OpTake:
		return store.SlotElement
	case store.OpFirstOf:
		return store.SlotLabel
	}
	return 0
}

func (k *checker) count(op *store.Op) {
	k.ops++
	if op.Kind.IsGuard() {
		k.guards++
	}
	if k.ops > store.MaxOperations {
		k.fail(store.ReasonTooLarge, "more than %d operations", store.MaxOperations)
	}
	if k.guards > store.MaxGuards {
		k.fail(store.ReasonTooLarge, "more than %d guards", store.MaxGuards)
	}
}

// enter takes the next index, which has to be the given one.
func (k *checker) enter(index uint32) {
	if int(index) != len(k.kinds) {
		k.fail(store.ReasonInvalid, "operation index %d where %d is next", index, len(k.kinds))
	}
	k.kinds = append(k.kinds, 0)
}

func (k *checker) key(t store.Template) {
	if len(t.Base) > store.MaxKeyBytes {
		k.fail(store.ReasonTooLarge, "key of %d bytes, at most %d", len(t.Base), store.MaxKeyBytes)
	}
	// The template's offsets are checked before anything looks through them.
	if k.template(t); k.err == nil && t.HasSlots() && len(t.ConstantPrefix()) == 0 {
		k.fail(store.ReasonInvalid, "a key with a slot needs a constant prefix")
	}
}

func (k *checker) value(t store.Template) {
	if len(t.Base) > store.MaxValueBytes {
		k.fail(store.ReasonTooLarge, "value of %d bytes, at most %d", len(t.Base), store.MaxValueBytes)
	}
	if t.Kind == store.KindInt64 && !t.HasSlots() && len(t.Base) != 8 {
		k.fail(store.ReasonInvalid, "integer value of %d bytes, must be 8", len(t.Base))
	}
	if t.Kind > store.KindInt64 {
		k.fail(store.ReasonInvalid, "unknown kind of value %d", t.Kind)
	}
	k.template(t)
}

func (k *checker) template(t store.Template) {
	k.bytes += len(t.Base) + 16*len(t.Splices)
	offset := 0
	for _, s := range t.Splices {
		if s.Offset < offset || s.Offset > len(t.Base) {
			k.fail(store.ReasonInvalid, "slot at offset %d of %d bytes", s.Offset, len(t.Base))
		}
		offset = s.Offset
		k.slot(s)
	}
}

// slot checks that a slot's result exists where it is used, and fits its encoding.
func (k *checker) slot(s store.Splice) {
	if s.As < store.EncTuple || s.As > store.EncRaw {
		k.fail(store.ReasonInvalid, "unknown slot encoding %d", s.As)
	}
	label := s.Slot.Kind == store.SlotLabel
	if (s.As == store.EncRaw && !label) || (s.As == store.EncBE64 && label) {
		k.fail(store.ReasonInvalid, "slot kind %d cannot have encoding %d", s.Slot.Kind, s.As)
	}
	if s.Slot.Kind == store.SlotVersion {
		return
	}
	if int(s.Slot.Op) >= len(k.kinds) || s.Slot.Kind == 0 || k.kinds[s.Slot.Op] != s.Slot.Kind {
		k.fail(store.ReasonInvalid, "slot of operation %d does not exist here: use it after its operation and inside "+
			"the group that holds it", s.Slot.Op)
	}
}

func (k *checker) constant(op *store.Op) {
	if op.Key.HasSlots() {
		k.fail(store.ReasonInvalid, "operation %d: a range or a pool cannot be named by a slot", op.Index)
	}
}

func (k *checker) pool(op *store.Op) {
	// The longest row name of a pool adds this to its prefix.
	const rowBytes = 16
	if len(op.Key.Base)+rowBytes > store.MaxKeyBytes {
		k.fail(store.ReasonTooLarge, "pool prefix of %d bytes, at most %d", len(op.Key.Base), store.MaxKeyBytes-rowBytes)
	}
	if op.Kind != store.OpCreatePool {
		return
	}
	k.bytes += 8 * len(op.Reserved)
	if op.To == 0 || op.To > pool.MaxSize {
		k.fail(store.ReasonInvalid, "pool of %d elements: a pool has 1 to %d", op.To, uint64(pool.MaxSize))
	}
	seen := make(map[uint64]bool, len(op.Reserved))
	for _, e := range op.Reserved {
		if e >= op.To || seen[e] {
			k.fail(store.ReasonInvalid, "reserved element %d is twice in the list or beyond the pool's size %d", e, op.To)
		}
		seen[e] = true
	}
	if len(op.Reserved) > store.MaxOperations {
		k.fail(store.ReasonTooLarge, "%d reserved elements, at most %d: take the others one by one", len(op.Reserved),
			store.MaxOperations)
	}
}

func (k *checker) predicate(op *store.Op) {
	if op.Predicate == nil || op.Predicate.Kind < store.PredicateExists || op.Predicate.Kind > store.PredicateIntEquals {
		k.fail(store.ReasonInvalid, "operation %d expects nothing known", op.Index)
		return
	}
	k.bytes += len(op.Predicate.Value.Bytes)
}

func (k *checker) combinator(op *store.Op, depth int) {
	if depth > store.MaxNesting {
		k.fail(store.ReasonInvalid, "operation %d: groups nest deeper than %d", op.Index, store.MaxNesting)
	}
	if op.Kind == store.OpGroup && len(op.Groups) != 1 {
		k.fail(store.ReasonInvalid, "operation %d: a group holds one list of operations", op.Index)
	}
	if op.Kind == store.OpFirstOf && len(op.Groups) > store.MaxAlternatives {
		k.fail(store.ReasonTooLarge, "%d alternatives, at most %d", len(op.Groups), store.MaxAlternatives)
	}
	for i := range op.Groups {
		if k.err != nil {
			return
		}
		k.group(op, &op.Groups[i], depth)
	}
}

func (k *checker) group(op *store.Op, g *store.Group, depth int) {
	k.enter(g.Index)
	k.bytes += len(g.Label)
	if len(g.Label) > store.MaxKeyBytes || !utf8.Valid(g.Label) {
		k.fail(store.ReasonInvalid, "operation %d: a label is UTF-8 of at most %d bytes", op.Index, store.MaxKeyBytes)
	}
	guards := k.guards
	k.operations(g.Ops, depth)
	if op.Kind == store.OpFirstOf && k.guards-guards > store.MaxAlternativeGuards {
		k.fail(store.ReasonTooLarge, "alternative of %d guards, at most %d", k.guards-guards, store.MaxAlternativeGuards)
	}
	if k.err != nil {
		return
	}
	// Results inside the group are out of sight after it: it may be skipped.
	clear(k.kinds[g.Index:])
	if op.Kind != store.OpFirstOf {
		k.kinds[g.Index] = store.SlotBit
	}
}
