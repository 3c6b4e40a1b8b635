package storetest

import (
	"fmt"
	"math"
	"slices"

	"pgregory.net/rapid"

	"github.com/nimbrel/nimbrel/store"
)

// generator draws commits.
type generator struct {
	t     *rapid.T
	base  store.Version
	index uint32
	ints  []store.Slot // in sight
}

func (g *generator) key() []byte { return key("k", rapid.IntRange(0, 5).Draw(g.t, "key")) }

func (g *generator) ops(depth int) []store.Op {
	var ops []store.Op
	for range rapid.IntRange(1, 4).Draw(g.t, "ops") {
		ops = append(ops, g.op(depth))
	}
	return ops
}

func (g *generator) op(depth int) store.Op {
	kinds := []store.OpKind{store.OpPut, store.OpDelete, store.OpDeleteRange, store.OpAdd, store.OpAdd, store.OpMin, store.OpMax,
		store.OpInsertIfAbsent, store.OpExpect, store.OpTake, store.OpTakeExact, store.OpGive, store.OpCreatePool}
	if depth < store.MaxNesting {
		kinds = append(kinds, store.OpGroup, store.OpFirstOf, store.OpAtLeast)
	}
	op := store.Op{Kind: rapid.SampledFrom(kinds).Draw(g.t, "kind"), Index: g.index, Key: store.RawKey(g.key())}
	g.index++
	small := func(name string, from, to int64) int64 { return rapid.Int64Range(from, to).Draw(g.t, name) }
	switch op.Kind {
	case store.OpPut, store.OpInsertIfAbsent:
		op.Value = g.value()
	case store.OpDeleteRange:
		op.End = append(g.key(), 0xFF)
		if string(op.End) <= string(op.Key.Base) {
			op.Key.Base, op.End = op.End, append(slices.Clone(op.Key.Base), 0xFF)
		}
	case store.OpAdd:
		op.Delta, op.Min, op.Max = small("delta", -3, 3), -2, 6
		g.ints = append(g.ints, store.Slot{Op: op.Index, Kind: store.SlotInt})
	case store.OpMin, store.OpMax:
		op.Delta = small("bound", -2, 6)
	case store.OpExpect:
		op.Predicate = &store.Predicate{Kind: rapid.SampledFrom([]store.PredicateKind{store.PredicateExists, store.PredicateAbsent,
			store.PredicateIntAtLeast, store.PredicateAtVersion}).Draw(g.t, "predicate"), N: small("n", -2, 3),
			Version: g.base + store.Version(small("version", 0, 10))}
	case store.OpTake:
		op.Key, op.To = store.RawKey(modelPool), math.MaxUint64
		g.ints = append(g.ints, store.Slot{Op: op.Index, Kind: store.SlotElement})
	case store.OpTakeExact, store.OpGive:
		op.Key, op.Element = store.RawKey(modelPool), uint64(small("element", 0, modelPoolSize-1))
	case store.OpCreatePool:
		op.Key, op.To = store.RawKey(modelPool), modelPoolSize
	case store.OpGroup, store.OpFirstOf, store.OpAtLeast:
		op.Key = store.Template{}
		g.groups(&op, depth)
	}
	return op
}

func (g *generator) groups(op *store.Op, depth int) {
	n := 1
	if op.Kind != store.OpGroup {
		n = rapid.IntRange(1, 3).Draw(g.t, "groups")
	}
	op.N = uint32(rapid.IntRange(0, n).Draw(g.t, "least"))
	for i := range n {
		group := store.Group{Index: g.index, Label: fmt.Appendf(nil, "label-%d", i)}
		g.index++
		inSight := g.ints
		if op.Kind == store.OpFirstOf {
			group.Ops = []store.Op{g.op(store.MaxNesting), g.op(store.MaxNesting)}
		} else {
			group.Ops = g.ops(depth + 1)
		}
		g.ints = inSight
		op.Groups = append(op.Groups, group)
	}
}

func (g *generator) value() store.Template {
	slots := append([]store.Slot{{Kind: store.SlotVersion}}, g.ints...)
	if rapid.Bool().Draw(g.t, "slot") {
		return store.SlotValue(rapid.SampledFrom(slots).Draw(g.t, "of"))
	}
	return store.Int(rapid.Int64Range(0, 6).Draw(g.t, "value"))
}
