package row

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
)

type first struct {
	Name  string `cbor:"1,keyasint"`
	Count uint64 `cbor:"2,keyasint"`
}

type second struct {
	Name  string `cbor:"1,keyasint"`
	Count uint64 `cbor:"2,keyasint"`
	Added string `cbor:"3,keyasint,omitempty"`
}

func (second) SchemaVersion() uint64 { return 2 }

// TestGolden fixes the bytes of rows.
func TestGolden(t *testing.T) {
	slot := store.Slot{Op: 7, Kind: store.SlotInt}
	for name, c := range map[string]struct {
		got     store.Template
		hex     string
		offsets []int
	}{
		"plain":    {got: Encode(first{"a", 300}), hex: "a201616102" + "19012c"},
		"schema":   {got: Encode(second{Name: "a", Count: 1}), hex: "a300020161610201"},
		"bound":    {got: Encode(first{"a", 300}, Bind(2, slot)), hex: "a2" + "016161" + "02", offsets: []int{5}},
		"appended": {got: Encode(first{"a", 0}, Bind(9, slot), Bind(30, slot)), hex: "a4" + "016161" + "0200" + "09" + "181e", offsets: []int{7, 9}},
		"embedded": {got: Encode(first{"a", 0}, Embed(3, Encode(first{"b", 0}, Bind(2, slot)))), hex: "a3" + "016161" + "0200" + "03" + "a201616202", offsets: []int{12}},
	} {
		if hex.EncodeToString(c.got.Base) != c.hex || len(c.got.Splices) != len(c.offsets) || c.got.Kind != store.KindBytes {
			t.Errorf("%s: %x %v, want %s", name, c.got.Base, c.got.Splices, c.hex)
			continue
		}
		for i, s := range c.got.Splices {
			if s.Offset != c.offsets[i] || s.Slot != slot || s.As != store.EncCBOR {
				t.Errorf("%s: splice %+v, want offset %d", name, s, c.offsets[i])
			}
		}
	}
}

func TestSchemas(t *testing.T) {
	newer, older := Encode(second{Name: "n", Count: 2, Added: "x"}).Base, Encode(first{"o", 1}).Base
	if got, err := Decode[first](newer); err != nil || got != (first{"n", 2}) {
		t.Errorf("older program reads newer row: %+v, %v", got, err)
	}
	if got, err := Decode[second](older); err != nil || got != (second{Name: "o", Count: 1}) {
		t.Errorf("newer program reads older row: %+v, %v", got, err)
	}
	if err := Rewritable(newer, first{}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("older program may rewrite: %v", err)
	}
	if err := Rewritable(older, second{}); err != nil {
		t.Errorf("newer program may not rewrite: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(second{Name: "n", Count: 2, Added: "x"}).Base)
	f.Add(Encode(first{}).Base)
	f.Add([]byte{0xA1, 1, 0x9B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode[second](b)
		if err != nil {
			return
		}
		again, err := Decode[second](Encode(v).Base)
		if err != nil || again != v {
			t.Fatalf("%+v becomes %+v, %v", v, again, err)
		}
		if err := Rewritable(b, v); err != nil && !errors.Is(err, ErrNewerSchema) {
			var head map[int]cbor.RawMessage
			if cbor.Unmarshal(b, &head) == nil && head[0] == nil {
				t.Fatalf("rewritable: %v", err)
			}
		}
	})
}
