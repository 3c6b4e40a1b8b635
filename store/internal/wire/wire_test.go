package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/nimbrel/nimbrel/store"
)

func samples() [][]byte {
	return [][]byte{
		Encode(store.Commit{ID: store.CommitID{Seq: 1}, Ops: []store.Op{{Kind: store.OpFirstOf, Groups: []store.Group{{Label: []byte("l"),
			Ops: []store.Op{{Kind: store.OpAdd, Key: store.Key("n"), Delta: 1}}}}}}}),
		Encode(store.Answer{Outcome: store.OutcomeGuardFailed, Failure: &store.Failure{Cause: &store.Failure{Op: 3}}}),
		Encode(Range{Begin: []byte("a"), Limit: 3}), Encode(Page{Rows: []Row{{Key: []byte("k")}}, More: true}),
		Encode(Watch{Prefixes: [][]byte{{1}}}), Encode(Reply{Batch: &Batch{Version: 3, Changes: []store.Change{{Key: []byte("k")}}}}),
		{0x9f, 0xff}, {0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0x81}, 100),
	}
}

// FuzzDecode decodes anything as every message: what decodes is encoded and decodes to the same again.
func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again[store.Commit](t, b)
		again[store.Answer](t, b)
		again[Hello](t, b)
		again[Open](t, b)
		again[Get](t, b)
		again[Range](t, b)
		again[Page](t, b)
		again[Release](t, b)
		again[Watch](t, b)
		again[Reply](t, b)
	})
}

func again[T any](t *testing.T, b []byte) {
	v, err := Decode[T](b)
	if err != nil {
		return
	}
	first := Encode(v)
	w, err := Decode[T](first)
	if err != nil || !bytes.Equal(Encode(w), first) {
		t.Fatalf("%T: %x decodes, its encoding %x does not to the same: %v", *v, b, first, err)
	}
}

// FuzzReadMessage reads anything: within the limit, and no more than there is.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 1, 2})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := ReadMessage(bytes.NewReader(b), 64)
		if err == nil && (len(body) > 64 || !bytes.Equal(b[4:4+len(body)], body)) {
			t.Fatalf("read %x of %x", body, b)
		}
	})
}

func TestDecodeIsBounded(t *testing.T) {
	var rows []byte
	for _, item := range []byte{0xa0, 0xf6} { // an empty map, a null
		rows = append([]byte{0xa1, 0x07, 0x9a, 0, 2, 0, 0}, bytes.Repeat([]byte{item}, 1<<17)...)
		if _, err := Decode[store.Commit](rows); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d structures of a byte each: %v", 1<<17, err)
		}
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	for _, s := range sentinels {
		if err := ErrorOf(s.code, "x"); s.code != CodeCancelled && !errors.Is(err, s.err) {
			t.Errorf("code %d became %v", s.code, err)
		}
		if CodeOf(s.err) != s.code {
			t.Errorf("%v has code %d", s.err, CodeOf(s.err))
		}
	}
}

func TestPagesAreBounded(t *testing.T) {
	rows := make([]store.KV, 9)
	for i := range rows {
		rows[i] = store.KV{Key: []byte{byte(i)}, Value: store.BytesValue(make([]byte, store.MaxValueBytes))}
	}
	p := NewPage(rows, false)
	if !p.More || len(p.Rows) != 2 || len(Encode(p)) > 1<<20 {
		t.Errorf("%d rows, more %v", len(p.Rows), p.More)
	}
	if one := NewPage(rows[:1], false); one.More || !reflect.DeepEqual(one.Rows[0].Key, rows[0].Key) {
		t.Errorf("a page of one: %+v", one.More)
	}
}
