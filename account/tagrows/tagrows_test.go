package tagrows

import (
	"encoding/hex"
	"errors"
	"maps"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// TestGoldenRow: the row and key of version 1 are written and read as they were first released.
func TestGoldenRow(t *testing.T) {
	tags := map[string]string{"Name": "web", "a": ""}
	const wantKey, wantRow = "02746167000231323334353637383930313200027670632d3100", "a101a2616160644e616d6563776562"
	if got := hex.EncodeToString(key("123456789012", "vpc-1").Base); got != wantKey {
		t.Errorf("key %s", got)
	}
	if got := hex.EncodeToString(row.Encode(tagsRow{Tags: tags}).Base); got != wantRow {
		t.Errorf("row %s", got)
	}
	b, err := hex.DecodeString(wantRow)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(store.BytesValue(b)); err != nil || !maps.Equal(got, tags) {
		t.Errorf("reads as %v, %v", got, err)
	}
}

func TestParseKey(t *testing.T) {
	a, resource, err := ParseKey(key("123456789012", "vpc-1").Base)
	if err != nil || a != "123456789012" || resource != "vpc-1" {
		t.Errorf("%s, %s, %v", a, resource, err)
	}
	for _, k := range [][]byte{nil, {0xff}, store.Prefix("tag", "a"), store.Prefix("gat", "a", "b"), store.Prefix("tag", 1, "b"), store.Prefix("tag", "a", 1)} {
		if _, _, err := ParseKey(k); err == nil {
			t.Errorf("%x was read", k)
		}
	}
}

// TestNewerRowIsNotRewritten: a row of a later schema may hold what this program would lose.
func TestNewerRowIsNotRewritten(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{})
	_, err := db.Transact(t.Context(), func(tx *store.Tx) error {
		tx.Put(key("1", "vpc-1"), row.Encode(struct {
			Schema uint64            `cbor:"0,keyasint"`
			Tags   map[string]string `cbor:"1,keyasint"`
		}{2, map[string]string{"a": "b"}}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Transact(t.Context(), func(tx *store.Tx) error {
		return Edit(t.Context(), tx, "1", "vpc-1", func(tags map[string]string) { tags["c"] = "d" })
	})
	if !errors.Is(err, row.ErrNewerSchema) {
		t.Errorf("edit of a newer row: %v", err)
	}
}
