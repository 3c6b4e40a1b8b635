// Package ordered is a map by text that is kept in order, for views in memory that are read a page at a time.
//
// A Map is a list of blocks of entries: finding a key is two binary searches, adding one moves at most a block, and going
// on after a key costs no more than finding it. Keys that come in rising order fill their blocks.
//
// Deliberately absent: locks, and iteration that survives a change. A reader takes what it needs, lets go, and comes back
// with the last key. Start reading at Map.
package ordered

import (
	"slices"
	"strings"
)

// blockEntries bounds a block.
const blockEntries = 256

type entry[V any] struct {
	key   string
	value V
}

// Map holds values by key. The zero value is empty. It is not safe for concurrent use.
type Map[V any] struct {
	blocks [][]entry[V] // none is empty, keys rise
	length int
}

// Len is the number of keys.
func (m *Map[V]) Len() int {
	if m == nil {
		return 0
	}
	return m.length
}

// Put sets the value of a key.
func (m *Map[V]) Put(key string, value V) {
	b, i, found := m.find(key)
	switch {
	case found:
		m.blocks[b][i].value = value
		return
	case b == len(m.blocks): // beyond the last key
		if b == 0 || len(m.blocks[b-1]) == blockEntries {
			m.blocks = append(m.blocks, nil)
		} else {
			b--
		}
		i = len(m.blocks[b])
	}
	m.length++
	m.blocks[b] = slices.Insert(m.blocks[b], i, entry[V]{key, value})
	if len(m.blocks[b]) > blockEntries {
		left, right := m.blocks[b][:blockEntries/2], m.blocks[b][blockEntries/2:]
		m.blocks = slices.Insert(m.blocks, b+1, slices.Clone(right))
		m.blocks[b] = slices.Clone(left)
	}
}

// Delete removes a key, if it is there.
func (m *Map[V]) Delete(key string) {
	b, i, found := m.find(key)
	if !found {
		return
	}
	m.length--
	if m.blocks[b] = slices.Delete(m.blocks[b], i, i+1); len(m.blocks[b]) == 0 {
		m.blocks = slices.Delete(m.blocks, b, b+1)
	}
}

// find returns where a key is, or where the next greater one is: block len(blocks) when there is none.
func (m *Map[V]) find(key string) (block, at int, found bool) {
	block, _ = slices.BinarySearchFunc(m.blocks, key, func(b []entry[V], key string) int { return strings.Compare(b[len(b)-1].key, key) })
	if block == len(m.blocks) {
		return block, 0, false
	}
	at, found = slices.BinarySearchFunc(m.blocks[block], key, func(e entry[V], key string) int { return strings.Compare(e.key, key) })
	return block, at, found
}

// Cursor stands before an entry of a Map, or at its end. A change of the map ends its use.
type Cursor[V any] struct {
	m         *Map[V]
	block, at int
}

// After stands before the first key greater than key; the empty key is less than all. m may be nil: an empty map.
func (m *Map[V]) After(key string) Cursor[V] {
	if m == nil {
		return Cursor[V]{m: &Map[V]{}}
	}
	block, at, found := m.find(key)
	c := Cursor[V]{m, block, at}
	if found {
		c.skip()
	}
	return c
}

// Peek is the key that the cursor stands before; false at the end.
func (c *Cursor[V]) Peek() (key string, ok bool) {
	if c.block == len(c.m.blocks) {
		return "", false
	}
	return c.m.blocks[c.block][c.at].key, true
}

// Next passes one entry; false at the end.
func (c *Cursor[V]) Next() (key string, value V, ok bool) {
	if c.block == len(c.m.blocks) {
		return "", value, false
	}
	e := c.m.blocks[c.block][c.at]
	c.skip()
	return e.key, e.value, true
}

func (c *Cursor[V]) skip() {
	if c.at++; c.at == len(c.m.blocks[c.block]) {
		c.block, c.at = c.block+1, 0
	}
}

// Merge takes the next entries of several maps in order, up to limit, those after a key; a key in several of them comes
// once.
func Merge[V any](maps []*Map[V], after string, limit int) []V {
	cursors, length := make([]Cursor[V], len(maps)), 0
	for i, m := range maps {
		cursors[i] = m.After(after)
		length += m.Len()
	}
	out := make([]V, 0, min(limit, length))
	for len(out) < limit {
		least, from := "", -1
		for i := range cursors {
			if key, ok := cursors[i].Peek(); ok && (from < 0 || key < least) {
				least, from = key, i
			}
		}
		if from < 0 {
			break
		}
		_, value, _ := cursors[from].Next()
		out = append(out, value)
		for i := range cursors[from+1:] {
			if c := &cursors[from+1+i]; sameKey(c, least) {
				c.Next()
			}
		}
	}
	return out
}

func sameKey[V any](c *Cursor[V], key string) bool {
	at, ok := c.Peek()
	return ok && at == key
}
