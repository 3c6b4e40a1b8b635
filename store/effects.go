package store

import (
	"fmt"
	"slices"
	"strings"
)

// effects is what a transaction's operations so far do to rows, as far as that is known before commit. The latest effect
// on a key decides; the order of effects is their seq.
type effects struct {
	seq    int
	rows   map[string]effect
	ranges []rangeEffect
}

type effect struct {
	seq        int
	unresolved bool
	deleted    bool
	value      Value
}

type rangeEffect struct {
	effect
	begin, end string
}

func (e *effects) put(key, value Template, conditional bool) {
	if conditional || key.HasSlots() || value.HasSlots() {
		e.blur(key)
		return
	}
	e.set(key.Base, effect{value: value.constant()})
}

func (e *effects) remove(key Template, conditional bool) {
	if conditional || key.HasSlots() {
		e.blur(key)
		return
	}
	e.set(key.Base, effect{deleted: true})
}

func (e *effects) removeRange(begin, end []byte, conditional bool) {
	e.addRange(begin, end, effect{deleted: true, unresolved: conditional})
}

// blur makes every row that the key may name unresolved.
func (e *effects) blur(key Template) {
	if !key.HasSlots() {
		e.set(key.Base, effect{unresolved: true})
		return
	}
	p := key.ConstantPrefix()
	e.addRange(p, rawPrefixEnd(p), effect{unresolved: true})
}

func (e *effects) blurRange(begin, end []byte) { e.addRange(begin, end, effect{unresolved: true}) }

func (e *effects) set(key []byte, f effect) {
	if e.rows == nil {
		e.rows = map[string]effect{}
	}
	e.seq++
	f.seq = e.seq
	e.rows[string(key)] = f
}

func (e *effects) addRange(begin, end []byte, f effect) {
	e.seq++
	f.seq = e.seq
	e.ranges = append(e.ranges, rangeEffect{effect: f, begin: string(begin), end: string(end)})
}

// at returns the latest effect on a key; seq 0 when there is none.
func (e *effects) at(key string) effect {
	latest := e.rows[key]
	for _, r := range e.ranges {
		if r.seq > latest.seq && r.begin <= key && key < r.end {
			latest = r.effect
		}
	}
	return latest
}

// resolved returns an error when a row in [begin, end) is unresolved; an empty end has no bound.
func (e *effects) resolved(begin, end string) error {
	for _, r := range e.ranges {
		if r.unresolved && r.begin < bound(end, r.end) && begin < r.end {
			return fmt.Errorf("range from %q: %w", begin, ErrUnresolved)
		}
	}
	for key := range e.rows {
		if key >= begin && (end == "" || key < end) && e.at(key).unresolved {
			return fmt.Errorf("row %q: %w", key, ErrUnresolved)
		}
	}
	return nil
}

// written lists the rows in [begin, end) that the transaction wrote and did not remove, ascending.
func (e *effects) written(begin, end string) []KV {
	var rows []KV
	for key, f := range e.rows {
		if key < begin || (end != "" && key >= end) {
			continue
		}
		if latest := e.at(key); latest.seq == f.seq && !f.deleted {
			rows = append(rows, KV{Key: []byte(key), Value: f.value})
		}
	}
	slices.SortFunc(rows, func(a, b KV) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return rows
}

// bound returns end, or something beyond limit when end is empty.
func bound(end, limit string) string {
	if end == "" {
		return limit + "\x00"
	}
	return end
}

// rawPrefixEnd returns the exclusive end of all keys that start with p, tuple elements or not. p is never all 0xFF: a
// handle's prefix starts it.
func rawPrefixEnd(p []byte) []byte {
	end := slices.Clone(p)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xFF {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
