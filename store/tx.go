package store

import (
	"fmt"
	"math"

	"github.com/nimbrel/nimbrel/store/guard"
)

// Tx is a transaction under construction: it reads a snapshot and collects operations, which run at commit in the
// order of their calls. Keys are relative to the handle. A mistake (a key too large, an unresolved read) is remembered
// and returned by Transact, so the methods that collect need no error. For one goroutine; not valid after its closure.
type Tx struct {
	db      *DB
	reads   readSet
	effects effects
	ops     []Op
	depth   int
	next    uint32 // index of the next operation or group
	errs    map[uint32]error
	err     error // first mistake
}

// Option changes one guard.
type Option func(*guardOptions)

type guardOptions struct {
	err      error
	from, to uint64
}

// Else sets the error that GuardError unwraps to when this guard fails.
func Else(err error) Option { return func(o *guardOptions) { o.err = err } }

// Within makes Take choose an element in [from, to].
func Within(from, to uint64) Option {
	return func(o *guardOptions) { o.from, o.to = from, to }
}

// Put writes a row.
func (tx *Tx) Put(key, value Template) {
	op := Op{Kind: OpPut, Key: tx.key(key), Value: value}
	tx.effects.put(op.Key, value, tx.depth > 0)
	tx.push(op)
}

// Delete removes a row if it exists.
func (tx *Tx) Delete(key Template) {
	op := Op{Kind: OpDelete, Key: tx.key(key)}
	tx.effects.remove(op.Key, tx.depth > 0)
	tx.push(op)
}

// DeleteRange removes the rows in [begin, end), at most MaxDeletedRows.
func (tx *Tx) DeleteRange(begin, end []byte) {
	op := Op{Kind: OpDeleteRange, Key: tx.key(RawKey(begin)), End: tx.db.absolute(end)}
	tx.effects.removeRange(op.Key.Base, op.End, tx.depth > 0)
	tx.push(op)
}

// Add changes an integer row by delta; a missing row counts as 0. It holds when the result is in [min, max]. The slot
// is the result.
func (tx *Tx) Add(key Template, delta, min, max int64, o ...Option) Slot {
	op := Op{Kind: OpAdd, Key: tx.key(key), Delta: delta, Min: min, Max: max}
	tx.effects.blur(op.Key)
	return Slot{Op: tx.push(op, o...), Kind: SlotInt}
}

// Min lowers an integer row to n if it is greater or missing. The slot is the result.
func (tx *Tx) Min(key Template, n int64, o ...Option) Slot { return tx.bound(OpMin, key, n, o) }

// Max raises an integer row to n if it is less or missing. The slot is the result.
func (tx *Tx) Max(key Template, n int64, o ...Option) Slot { return tx.bound(OpMax, key, n, o) }

func (tx *Tx) bound(kind OpKind, key Template, n int64, o []Option) Slot {
	op := Op{Kind: kind, Key: tx.key(key), Delta: n}
	tx.effects.blur(op.Key)
	return Slot{Op: tx.push(op, o...), Kind: SlotInt}
}

// InsertIfAbsent writes a row and holds when there was none.
func (tx *Tx) InsertIfAbsent(key, value Template, o ...Option) {
	op := Op{Kind: OpInsertIfAbsent, Key: tx.key(key), Value: value}
	tx.effects.blur(op.Key)
	tx.push(op, o...)
}

// Expect holds when the row satisfies p. It adds nothing to the read set.
func (tx *Tx) Expect(key Template, p Predicate, o ...Option) {
	tx.push(Op{Kind: OpExpect, Key: tx.key(key), Predicate: &p}, o...)
}

// Guard applies a guard value. An error given with Else is that of each of its steps.
func (tx *Tx) Guard(g guard.Guard, o ...Option) {
	for _, step := range guard.Steps(g) {
		switch s := step.(type) {
		case guard.Add:
			tx.Add(RawKey(s.Key), s.Delta, s.Min, s.Max, o...)
		case guard.AtLeast:
			tx.Expect(RawKey(s.Key), IntAtLeast(s.N), o...)
		case guard.Equals:
			tx.Expect(RawKey(s.Key), IntEquals(s.N), o...)
		case guard.Exists:
			tx.Expect(RawKey(s.Key), Exists(), o...)
		default:
			panic(fmt.Sprintf("store: unknown guard %T", step))
		}
	}
}

// Take removes one element from a pool, by default the next free one after the last taken, so that a returned element
// rests as long as possible. It fails when none is free. The slot is the element.
func (tx *Tx) Take(pool []byte, o ...Option) Slot {
	op := tx.poolOp(OpTake, pool)
	op.To = math.MaxUint64
	return Slot{Op: tx.push(op, o...), Kind: SlotElement}
}

// TakeExact removes one given element from a pool. It fails when that is not free or not in the pool.
func (tx *Tx) TakeExact(pool []byte, element uint64, o ...Option) {
	op := tx.poolOp(OpTakeExact, pool)
	op.Element = element
	tx.push(op, o...)
}

// Give returns an element to its pool. It fails when it is free already or beyond the pool's size.
func (tx *Tx) Give(pool []byte, element uint64, o ...Option) {
	op := tx.poolOp(OpGive, pool)
	op.Element = element
	tx.push(op, o...)
}

// CreatePool makes a pool of the elements [0, size) under a key prefix that nothing else uses, all free but the
// reserved ones. Those can be given to it later. It fails when the pool exists.
func (tx *Tx) CreatePool(pool []byte, size uint64, reserved ...uint64) {
	op := tx.poolOp(OpCreatePool, pool)
	op.To, op.Reserved = size, reserved
	tx.push(op)
}

// DeletePool removes a pool with all its state. Guard on FreeKey first when elements may be out.
func (tx *Tx) DeletePool(pool []byte) { tx.DeleteRange(pool, PrefixEnd(pool)) }

func (tx *Tx) poolOp(kind OpKind, prefix []byte) Op {
	op := Op{Kind: kind, Key: tx.key(RawKey(prefix))}
	tx.effects.blurRange(op.Key.Base, PrefixEnd(op.Key.Base))
	return op
}

// Group runs the operations of fn all or, when one of its guards fails, not at all. The slot tells which.
func (tx *Tx) Group(fn func(tx *Tx)) Slot {
	op := Op{Kind: OpGroup, Index: tx.index()}
	op.Groups = []Group{tx.collect(nil, fn)}
	tx.ops = append(tx.ops, op)
	return Slot{Op: op.Groups[0].Index, Kind: SlotBit}
}

// Alternative is one choice of FirstOf: at most MaxAlternativeGuards guards, and plain operations. The label is at most
// MaxKeyBytes.
type Alternative struct {
	Label  []byte
	Guards func(tx *Tx)
}

// FirstOf runs the first alternative whose guards all hold, and fails when there is none. At most MaxAlternatives. The
// slot is the label.
func (tx *Tx) FirstOf(alts []Alternative, o ...Option) Slot {
	op := Op{Kind: OpFirstOf, Index: tx.index()}
	tx.options(&op, o)
	for _, a := range alts {
		op.Groups = append(op.Groups, tx.collect(a.Label, a.Guards))
	}
	tx.ops = append(tx.ops, op)
	return Slot{Op: op.Index, Kind: SlotLabel}
}

// AtLeast runs each group all or not at all, and fails when fewer than n ran. The slots tell which ran.
func (tx *Tx) AtLeast(n int, groups []func(tx *Tx), o ...Option) []Slot {
	op := Op{Kind: OpAtLeast, Index: tx.index(), N: uint32(max(n, 0))}
	tx.options(&op, o)
	var ran []Slot
	for _, fn := range groups {
		g := tx.collect(nil, fn)
		op.Groups = append(op.Groups, g)
		ran = append(ran, Slot{Op: g.Index, Kind: SlotBit})
	}
	tx.ops = append(tx.ops, op)
	return ran
}

// CommitVersion is the version that this transaction will commit at.
func (tx *Tx) CommitVersion() Slot { return Slot{Kind: SlotVersion} }

// collect gathers the operations of one group. What they write is unresolved afterwards: the group may be skipped.
func (tx *Tx) collect(label []byte, fn func(tx *Tx)) Group {
	g := Group{Index: tx.index(), Label: label}
	outer := tx.ops
	tx.ops = nil
	tx.depth++
	fn(tx)
	tx.depth--
	g.Ops, tx.ops = tx.ops, outer
	return g
}

func (tx *Tx) push(op Op, o ...Option) uint32 {
	op.Index = tx.index()
	tx.options(&op, o)
	tx.ops = append(tx.ops, op)
	return op.Index
}

func (tx *Tx) options(op *Op, options []Option) {
	var o guardOptions
	for _, set := range options {
		set(&o)
	}
	if o.err != nil {
		tx.errs[op.Index] = o.err
	}
	if op.Kind == OpTake && (o.from != 0 || o.to != 0) {
		op.From, op.To = o.from, o.to
	}
}

func (tx *Tx) index() uint32 {
	tx.next++
	return tx.next - 1
}

func (tx *Tx) key(t Template) Template { return t.prefixed(tx.db.prefix) }

func (tx *Tx) fail(err error) error {
	if tx.err == nil {
		tx.err = err
	}
	return err
}
