package tuple

import (
	"bytes"
	"encoding/hex"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// golden fixes the format: these bytes are on users' disks.
var golden = []struct {
	part any
	hex  string
}{
	{"", "0200"},
	{"a", "026100"},
	{"a\x00b", "026100ff6200"},
	{[]byte{}, "0100"},
	{[]byte{0, 0xFF}, "0100ffff00"},
	{uint64(0), "14"},
	{uint64(1), "1501"},
	{uint64(255), "15ff"},
	{uint64(256), "160100"},
	{uint64(math.MaxUint64), "1cffffffffffffffff"},
	{int64(-1), "13fe"},
	{int64(-255), "1300"},
	{int64(-256), "12feff"},
	{int64(math.MinInt64), "0c7fffffffffffffff"},
	{false, "26"},
	{true, "27"},
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		b := Append(nil, g.part)
		if hex.EncodeToString(b) != g.hex {
			t.Errorf("%T %v: %x, want %s", g.part, g.part, b, g.hex)
		}
		parts, err := Decode(b)
		if err != nil || len(parts) != 1 || !reflect.DeepEqual(parts[0], g.part) {
			t.Errorf("%x decodes to %v, %v", b, parts, err)
		}
	}
}

type named string

func TestNamedTypes(t *testing.T) {
	for _, pair := range [][2]any{{named("x"), "x"}, {int8(-3), int64(-3)}, {uint32(7), uint64(7)}, {7, uint64(7)}} {
		if a, b := Append(nil, pair[0]), Append(nil, pair[1]); !bytes.Equal(a, b) {
			t.Errorf("%v: %x, want %x", pair[0], a, b)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a float became a key")
		}
	}()
	Append(nil, 1.5)
}

// TestOrder compares the order of encodings with that of the values, and that a list's extensions follow it before 0xFF.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-300, 300))
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		if got := bytes.Compare(AppendInt(nil, a), AppendInt(nil, b)); (got < 0) != (a < b) || (got == 0) != (a == b) {
			t.Fatalf("%d and %d compare as %d", a, b, got)
		}
		x, y := rapid.StringOfN(rapid.SampledFrom([]rune{0, 1, 'a', 255}), 0, 4, -1).Draw(t, "x"), rapid.String().Draw(t, "y")
		if got := bytes.Compare(AppendText(nil, x), AppendText(nil, y)); (got < 0) != (x < y) {
			t.Fatalf("%q and %q compare as %d", x, y, got)
		}
		list, longer := AppendText(nil, x), Append(AppendText(nil, x), b)
		if bytes.Compare(list, longer) >= 0 || bytes.Compare(longer, append(list, 0xFF)) >= 0 {
			t.Fatalf("%x does not precede %x", list, longer)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		b, err := hex.DecodeString(g.hex)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x15, 0})
	f.Add([]byte{0x0c, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := Decode(b)
		if err != nil {
			return
		}
		var again []byte
		for _, p := range parts {
			again = Append(again, p)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %v, which encodes to %x", b, parts, again)
		}
	})
}
