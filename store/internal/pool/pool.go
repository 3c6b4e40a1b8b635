// Package pool names the rows of a pool of integers: a set of free elements in [0, size) kept as a tree of bitmap pages.
//
// Every page has 2,048 bits (256 bytes) in which a set bit means free: at level 0 an element, at level n a page of level
// n-1 that has a free element. An absent page is all free, so creating a pool writes only the pages of its reserved
// elements, and a pool of any size costs a handful of rows per take. Beside the pages there are three integer rows: the
// size, the count of free elements, and the last element taken.
package pool

import (
	"bytes"

	"github.com/nimbrel/nimbrel/store/tuple"
)

// PageBits is the number of bits in one page; PageBytes its size as a row.
const (
	PageBits  = 2048
	PageBytes = PageBits / 8
)

// MaxSize bounds a pool: three levels of pages.
const MaxSize = PageBits * PageBits * PageBits

// The rows under a pool's prefix; the numbers are part of the format.
const (
	rowFree = 0
	rowSize = 1
	rowLast = 2
	rowPage = 3
)

// FreeKey names the count of free elements.
func FreeKey(prefix []byte) []byte { return key(prefix, rowFree) }

// SizeKey names the size; the pool exists exactly when this row does.
func SizeKey(prefix []byte) []byte { return key(prefix, rowSize) }

// LastKey names the element that was taken last.
func LastKey(prefix []byte) []byte { return key(prefix, rowLast) }

// PageKey names one page.
func PageKey(prefix []byte, level int, page uint64) []byte {
	return key(prefix, rowPage, uint64(level), page)
}

// PageNumber reads the number of a page of a level from its key.
func PageNumber(prefix []byte, level int, key []byte) (uint64, bool) {
	rest, found := bytes.CutPrefix(key, appendUints(bytes.Clone(prefix), rowPage, uint64(level)))
	parts, err := tuple.Decode(rest)
	if !found || err != nil || len(parts) != 1 {
		return 0, false
	}
	number, ok := parts[0].(uint64)
	return number, ok
}

// Levels tells how many levels of pages a pool of the given size has, at least one.
func Levels(size uint64) int {
	levels := 1
	for span := uint64(PageBits); span < size; span *= PageBits {
		levels++
	}
	return levels
}

func key(prefix []byte, parts ...uint64) []byte {
	k := make([]byte, len(prefix), len(prefix)+16)
	copy(k, prefix)
	return appendUints(k, parts...)
}

func appendUints(k []byte, parts ...uint64) []byte {
	for _, p := range parts {
		k = tuple.AppendUint(k, p)
	}
	return k
}
