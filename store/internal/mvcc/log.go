package mvcc

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nimbrel/nimbrel/store"
)

// Entry is the log's line for one version: which rows it wrote.
type Entry struct {
	Version store.Version
	TimeMs  int64
	// Written counts the bytes of rows from the store's creation up to this version: the difference of two entries is
	// the size of the history between them.
	Written uint64
	Keys    [][]byte
}

func (e Entry) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.TimeMs))
	dst = binary.AppendUvarint(dst, e.Written)
	dst = binary.AppendUvarint(dst, uint64(len(e.Keys)))
	for _, key := range e.Keys {
		dst = binary.AppendUvarint(dst, uint64(len(key)))
		dst = append(dst, key...)
	}
	return dst
}

// parseEntry decodes an entry whose keys have memory of their own.
func parseEntry(v store.Version, b []byte) (Entry, error) {
	var head [3]uint64
	for i := range head {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return Entry{}, fmt.Errorf("log entry %d: %w", v, errMalformed)
		}
		head[i], b = n, b[size:]
	}
	if head[0] > math.MaxInt64 || head[2] > uint64(len(b)) {
		return Entry{}, fmt.Errorf("log entry %d: %w", v, errMalformed)
	}
	e := Entry{Version: v, TimeMs: int64(head[0]), Written: head[1], Keys: make([][]byte, 0, head[2])}
	b = append([]byte(nil), b...)
	for range head[2] {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return Entry{}, fmt.Errorf("log entry %d: %w", v, errMalformed)
		}
		e.Keys, b = append(e.Keys, b[size:size+int(n)]), b[size+int(n):]
	}
	if len(b) != 0 {
		return Entry{}, fmt.Errorf("log entry %d: %d bytes too many: %w", v, len(b), errMalformed)
	}
	return e, nil
}

// Log calls fn with the entries after a version in order, until fn returns false.
func (s *State) Log(after store.Version, fn func(Entry) bool) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: logKey(after + 1), UpperBound: []byte{spaceLog + 1, 0}})
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		e, err := entryAt(it)
		if err != nil {
			return err
		}
		if !fn(e) {
			break
		}
	}
	return it.Error()
}

// lastEntry returns the newest entry; its version is 0 when the log is empty.
func (s *State) lastEntry() (Entry, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceLog, 0}, UpperBound: []byte{spaceLog + 1, 0}})
	if err != nil {
		return Entry{}, fmt.Errorf("read log: %w", err)
	}
	defer it.Close()
	if !it.Last() {
		return Entry{}, it.Error()
	}
	return entryAt(it)
}

func entryAt(it *pebble.Iterator) (Entry, error) {
	c := content(it.Key())
	if len(c) != 9 {
		return Entry{}, fmt.Errorf("log key %x: %w", it.Key(), errMalformed)
	}
	return parseEntry(store.Version(binary.BigEndian.Uint64(c[1:])), it.Value())
}
