package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// The spaces of keys.
const (
	spaceMeta   = 'm'
	spaceRow    = 'r'
	spaceLog    = 'l'
	spaceRecord = 'i'
)

// suffixBytes is the length of a version suffix, its own last byte.
const suffixBytes = 9

// errMalformed is wrapped by every decoding error: the files hold what no version of this program wrote.
var errMalformed = errors.New("malformed entry")

// Comparer orders keys by prefix, then by version, newest first. Its name is part of the format.
var Comparer = &pebble.Comparer{
	Name:                 "nimbrel.versioned.1",
	Split:                split,
	ComparePointSuffixes: bytes.Compare,
	CompareRangeSuffixes: bytes.Compare,
	AbbreviatedKey: func(key []byte) uint64 {
		return pebble.DefaultComparer.AbbreviatedKey(content(key))
	},
	Separator: func(dst, a, b []byte) []byte {
		return shortened(dst, a, pebble.DefaultComparer.Separator(nil, content(a), content(b)))
	},
	Successor: func(dst, a []byte) []byte {
		return shortened(dst, a, pebble.DefaultComparer.Successor(nil, content(a)))
	},
	// The next prefix after k and its zero byte is that of k with another zero byte.
	ImmediateSuccessor: func(dst, a []byte) []byte { return append(append(dst, a...), 0) },
}

// split returns where the version suffix starts. Every prefix ends with a zero byte, which says "no suffix".
func split(key []byte) int {
	if len(key) == 0 {
		return 0
	}
	n := int(key[len(key)-1])
	if n >= len(key) {
		return len(key)
	}
	return len(key) - n
}

// content is a key without suffix and zero byte.
func content(key []byte) []byte {
	n := split(key)
	return key[:max(n-1, 0)]
}

// shortened appends short as a prefix if it really lies between, else a itself.
func shortened(dst, a, short []byte) []byte {
	if len(short) < len(content(a)) && bytes.Compare(content(a), short) < 0 {
		return append(append(dst, short...), 0)
	}
	return append(dst, a...)
}

func prefixKey(space byte, parts ...[]byte) []byte {
	n := 2
	for _, p := range parts {
		n += len(p)
	}
	key := append(make([]byte, 0, n+suffixBytes), space)
	for _, p := range parts {
		key = append(key, p...)
	}
	return append(key, 0)
}

func rowPrefix(key []byte) []byte { return prefixKey(spaceRow, key) }

// rowKey names a row's state that was written at a version. Seeking it finds the state that a reader at the version sees.
func rowKey(key []byte, v store.Version) []byte { return withVersion(rowPrefix(key), v) }

// withVersion appends a version suffix to a prefix.
func withVersion(prefix []byte, v store.Version) []byte {
	return append(binary.BigEndian.AppendUint64(prefix, ^uint64(v)), suffixBytes)
}

// rowBounds are the physical bounds of the rows in [begin, end); a nil end has no bound.
func rowBounds(begin, end []byte) (lower, upper []byte) {
	if end == nil {
		return rowPrefix(begin), []byte{spaceRow + 1, 0}
	}
	return rowPrefix(begin), rowPrefix(end)
}

// parseRowKey returns a physical key's row key, which shares its memory, and version.
func parseRowKey(physical []byte) ([]byte, store.Version, error) {
	n := split(physical)
	if len(physical)-n != suffixBytes || n < 2 || physical[0] != spaceRow || physical[n-1] != 0 {
		return nil, 0, fmt.Errorf("row key %x: %w", physical, errMalformed)
	}
	return physical[1 : n-1], store.Version(^binary.BigEndian.Uint64(physical[n:])), nil
}

func logKey(v store.Version) []byte {
	return prefixKey(spaceLog, binary.BigEndian.AppendUint64(nil, uint64(v)))
}

func recordKey(k transactor.RecordKey) []byte {
	return prefixKey(spaceRecord, k.Session[:], binary.BigEndian.AppendUint64(nil, k.Seq))
}

// kindDeleted marks a deletion in the place of a value's kind.
const kindDeleted = 0

// appendValue encodes a row's state.
func appendValue(dst []byte, w transactor.Write) []byte {
	switch {
	case w.Deleted:
		return append(dst, kindDeleted)
	case w.Value.Kind == store.KindInt64:
		return binary.BigEndian.AppendUint64(append(dst, byte(store.KindInt64)), uint64(w.Value.Int))
	default:
		return append(append(dst, byte(store.KindBytes)), w.Value.Bytes...)
	}
}

// parseValue decodes a row's state into memory of its own.
func parseValue(b []byte) (v store.Value, deleted bool, err error) {
	switch {
	case len(b) == 1 && b[0] == kindDeleted:
		return v, true, nil
	case len(b) == 9 && b[0] == byte(store.KindInt64):
		return store.IntValue(int64(binary.BigEndian.Uint64(b[1:]))), false, nil
	case len(b) >= 1 && b[0] == byte(store.KindBytes):
		return store.BytesValue(bytes.Clone(b[1:])), false, nil
	}
	return v, false, fmt.Errorf("value of %d bytes: %w", len(b), errMalformed)
}
