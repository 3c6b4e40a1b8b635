package mvcc

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// TestGolden fixes format 1: these bytes are on users' disks.
func TestGolden(t *testing.T) {
	deleted, number := transactor.Write{Deleted: true}, transactor.Write{Value: store.IntValue(-2)}
	text := transactor.Write{Value: store.BytesValue([]byte("x"))}
	record, err := cbor.Marshal(transactor.Record{
		ID: store.CommitID{Seq: 3, Attempt: 1}, NotAfterMs: 5,
		Answer: &store.Answer{Outcome: store.OutcomeCommitted, Version: 7, Results: []store.SlotResult{{Ran: true, Int: 4}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got []byte
		hex string
	}{
		"row key":    {rowKey([]byte("k"), 1), "726b00fffffffffffffffe09"},
		"log key":    {logKey(258), "6c000000000000010200"},
		"record key": {recordKey(transactor.RecordKey{Session: store.SessionID{1}, Seq: 2}), "6901000000000000000000000000000000000000000000000200"},
		"format key": {formatKey, "6d666f726d617400"},
		"floor key":  {floorKey, "6d666c6f6f7200"},
		"deletion":   {appendValue(nil, deleted), "00"},
		"integer":    {appendValue(nil, number), "02fffffffffffffffe"},
		"bytes":      {appendValue(nil, text), "0178"},
		"log entry":  {Entry{TimeMs: 1, Written: 300, Keys: [][]byte{[]byte("a"), nil}}.append(nil), "01ac0202016100"},
		"record": {record, "a401a3015000000000000000000000000000000000020303010250000000000000000000000000000000000405" +
			"05a301010207" + "0381a201f50204"},
	} {
		if hex.EncodeToString(c.got) != c.hex {
			t.Errorf("%s: %x, want %s", name, c.got, c.hex)
		}
	}
}

// TestComparer holds Pebble's rules for comparers on our keys.
func TestComparer(t *testing.T) {
	key := func(t *rapid.T, name string) []byte {
		user := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 9, 'a', 0xFF}), 0, 4).Draw(t, name)
		if rapid.Bool().Draw(t, name+" bare") {
			return rowPrefix(user)
		}
		return rowKey(user, store.Version(rapid.Uint64Range(0, 300).Draw(t, name+" version")))
	}
	c := Comparer.EnsureDefaults()
	rapid.Check(t, func(t *rapid.T) {
		a, b := key(t, "a"), key(t, "b")
		order := c.Compare(a, b)
		if c.AbbreviatedKey(a) < c.AbbreviatedKey(b) && order >= 0 {
			t.Fatalf("abbreviated %x < %x, compare says %d", a, b, order)
		}
		// Rows are ordered by user key, then from the newest version.
		if byUser := bytes.Compare(content(a), content(b)); byUser != 0 && (byUser < 0) != (order < 0) {
			t.Fatalf("%x and %x: user keys compare as %d, keys as %d", a, b, byUser, order)
		}
		if order < 0 {
			s := c.Separator(nil, a, b)
			if c.Compare(a, s) > 0 || c.Compare(s, b) >= 0 {
				t.Fatalf("separator %x of %x and %x", s, a, b)
			}
		}
		if s := c.Successor(nil, a); c.Compare(a, s) > 0 {
			t.Fatalf("successor %x of %x", s, a)
		}
		next := c.ImmediateSuccessor(nil, c.Split.Prefix(a))
		if c.Split(next) != len(next) || c.Compare(a, next) >= 0 {
			t.Fatalf("immediate successor %x of %x", next, a)
		}
		if c.Compare(c.Split.Prefix(b), c.Split.Prefix(a)) > 0 && c.Compare(c.Split.Prefix(b), next) < 0 {
			t.Fatalf("%x is between %x and its immediate successor", b, a)
		}
	})
	v := []store.Version{9, 0, 300, 256, 255}
	keys := [][]byte{}
	for _, n := range v {
		keys = append(keys, rowKey([]byte("k"), n))
	}
	slices.SortFunc(keys, c.Compare)
	for i, want := range []store.Version{300, 256, 255, 9, 0} {
		if _, got, err := parseRowKey(keys[i]); err != nil || got != want {
			t.Errorf("version %d is at %d, want %d, %v", got, i, want, err)
		}
	}
	if err := pebble.CheckComparer(c, [][]byte{rowPrefix(nil), rowPrefix([]byte("a")), rowPrefix([]byte("b"))},
		[][]byte{{}, withVersion(nil, 300), withVersion(nil, 9), withVersion(nil, 0)}); err != nil {
		t.Error(err)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(Entry{TimeMs: 1, Written: 300, Keys: [][]byte{[]byte("a"), nil}}.append(nil))
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(4, b)
		if err != nil {
			return
		}
		again, err := parseEntry(4, e.append(nil))
		if err != nil || again.TimeMs != e.TimeMs || again.Written != e.Written || !slices.EqualFunc(again.Keys, e.Keys, bytes.Equal) {
			t.Fatalf("%+v becomes %+v, %v", e, again, err)
		}
	})
}

func FuzzRow(f *testing.F) {
	f.Add(rowKey([]byte("k"), 7), []byte{2, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(rowPrefix(nil), []byte{0})
	f.Add([]byte{9}, []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if user, v, err := parseRowKey(key); err == nil && !bytes.Equal(rowKey(user, v), key) {
			t.Fatalf("key %x is row %x at %d", key, user, v)
		}
		v, deleted, err := parseValue(value)
		if err == nil && !bytes.Equal(appendValue(nil, transactor.Write{Value: v, Deleted: deleted}), value) {
			t.Fatalf("value %x is %+v", value, v)
		}
	})
}

func FuzzRecord(f *testing.F) {
	b, err := cbor.Marshal(transactor.Record{Answer: &store.Answer{Outcome: store.OutcomeGuardFailed, Failure: &store.Failure{}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xA0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRecord(b); err == nil && r.Answer == nil {
			t.Fatal("a record without its answer")
		}
	})
}
