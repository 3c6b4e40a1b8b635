package transactor

import (
	"math/bits"
	"slices"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/pool"
)

// openPool is a pool as one operation sees it. Every method touches at most one page per level up and one down.
type openPool struct {
	*run
	prefix []byte
	size   uint64
	levels int
}

func (r *run) poolOperation(op *store.Op) error {
	sizeKey := pool.SizeKey(op.Key.Base)
	row, err := r.get(sizeKey)
	if err != nil {
		return err
	}
	if row.Found != (op.Kind != store.OpCreatePool) {
		return r.fail(op, sizeKey)
	}
	if op.Kind == store.OpCreatePool {
		return r.createPool(op)
	}
	size := uint64(row.Value.Int)
	if row.Value.Kind != store.KindInt64 || size == 0 || size > pool.MaxSize {
		return corrupt(op.Key.Base)
	}
	p := openPool{run: r, prefix: op.Key.Base, size: size, levels: pool.Levels(size)}
	switch op.Kind {
	case store.OpTake:
		return p.take(op)
	case store.OpTakeExact:
		return p.takeExact(op)
	default:
		return p.give(op)
	}
}

func (r *run) createPool(op *store.Op) error {
	p := openPool{run: r, prefix: op.Key.Base, size: op.To, levels: pool.Levels(op.To)}
	r.putInt(pool.SizeKey(p.prefix), int64(p.size))
	for _, element := range op.Reserved {
		if err := p.set(0, element, false); err != nil {
			return err
		}
	}
	r.putInt(pool.FreeKey(p.prefix), int64(p.size)-int64(len(op.Reserved)))
	r.results[op.Index].Ran = true
	return nil
}

// take takes the next free element in [From, To] after the last taken, else the first.
func (p openPool) take(op *store.Op) error {
	last, err := p.get(pool.LastKey(p.prefix))
	if err != nil {
		return err
	}
	start := op.From
	if next := uint64(last.Value.Int) + 1; last.Found && next > op.From && next <= op.To {
		start = next
	}
	element, found, err := p.next(0, start)
	if err == nil && (!found || element > op.To) {
		element, found, err = p.next(0, op.From)
	}
	if err != nil {
		return err
	}
	if !found || element > op.To {
		return p.fail(op, pool.FreeKey(p.prefix))
	}
	p.putInt(pool.LastKey(p.prefix), int64(element))
	return p.finish(op, element, false)
}

func (p openPool) takeExact(op *store.Op) error { return p.exact(op, true) }

func (p openPool) give(op *store.Op) error { return p.exact(op, false) }

// exact takes or gives the element that op names, which must be in the other state.
func (p openPool) exact(op *store.Op, wantFree bool) error {
	if op.Element >= p.size {
		return p.fail(op, pool.SizeKey(p.prefix))
	}
	page, err := p.page(0, op.Element/pool.PageBits)
	if err != nil {
		return err
	}
	if getBit(page, op.Element%pool.PageBits) != wantFree {
		return p.fail(op, pool.PageKey(p.prefix, 0, op.Element/pool.PageBits))
	}
	return p.finish(op, op.Element, !wantFree)
}

// finish changes an element's state, the count and the result.
func (p openPool) finish(op *store.Op, element uint64, free bool) error {
	count, err := p.get(pool.FreeKey(p.prefix))
	if err != nil {
		return err
	}
	delta := int64(-1)
	if free {
		delta = 1
	}
	p.putInt(pool.FreeKey(p.prefix), count.Value.Int+delta)
	p.results[op.Index] = store.SlotResult{Ran: true, Element: element}
	return p.set(0, element, free)
}

// next finds the first set bit of a level at or after from.
func (p openPool) next(level int, from uint64) (uint64, bool, error) {
	if from >= p.count(level) {
		return 0, false, nil
	}
	number := from / pool.PageBits
	page, err := p.page(level, number)
	if err != nil {
		return 0, false, err
	}
	if bit, ok := nextBit(page, from%pool.PageBits); ok {
		return number*pool.PageBits + bit, true, nil
	}
	if level+1 == p.levels {
		return 0, false, nil
	}
	number, found, err := p.next(level+1, number+1)
	if err != nil || !found {
		return 0, false, err
	}
	if page, err = p.page(level, number); err != nil {
		return 0, false, err
	}
	bit, ok := nextBit(page, 0)
	if !ok {
		return 0, false, corrupt(p.prefix)
	}
	return number*pool.PageBits + bit, true, nil
}

// set changes one bit, and the bit above when its page becomes empty or stops being so.
func (p openPool) set(level int, at uint64, free bool) error {
	number := at / pool.PageBits
	old, err := p.page(level, number)
	if err != nil {
		return err
	}
	page := slices.Clone(old)
	setBit(page, at%pool.PageBits, free)
	p.put(pool.PageKey(p.prefix, level, number), store.BytesValue(page))
	if empty := isEmpty(page); empty == isEmpty(old) || level+1 == p.levels {
		return nil
	}
	return p.set(level+1, number, free)
}

// page returns a page, which the caller must not change. An absent one is all set, up to the level's count.
func (p openPool) page(level int, number uint64) ([]byte, error) {
	row, err := p.get(pool.PageKey(p.prefix, level, number))
	if err != nil {
		return nil, err
	}
	if row.Found && len(row.Value.Bytes) != pool.PageBytes {
		return nil, corrupt(p.prefix)
	}
	if row.Found {
		return row.Value.Bytes, nil
	}
	page := make([]byte, pool.PageBytes)
	for i := uint64(0); i < min(pool.PageBits, p.count(level)-number*pool.PageBits); i++ {
		setBit(page, i, true)
	}
	return page, nil
}

// corrupt refuses a pool whose rows were written by other operations than a pool's.
func corrupt(prefix []byte) error {
	return refuse(store.ReasonInvalid, "rows under pool %q are not a pool's: nothing else may write there", prefix)
}

// count is the number of bits of a level.
func (p openPool) count(level int) uint64 {
	n := p.size
	for range level {
		n = (n + pool.PageBits - 1) / pool.PageBits
	}
	return n
}

func getBit(page []byte, i uint64) bool { return page[i/8]&(1<<(i%8)) != 0 }

func setBit(page []byte, i uint64, on bool) {
	if on {
		page[i/8] |= 1 << (i % 8)
	} else {
		page[i/8] &^= 1 << (i % 8)
	}
}

func nextBit(page []byte, from uint64) (uint64, bool) {
	masked := page[from/8] &^ (1<<(from%8) - 1)
	for i := from / 8; ; masked = page[i] {
		if masked != 0 {
			return i*8 + uint64(bits.TrailingZeros8(masked)), true
		}
		if i++; i == uint64(len(page)) {
			return 0, false
		}
	}
}

func isEmpty(page []byte) bool {
	_, any := nextBit(page, 0)
	return !any
}
