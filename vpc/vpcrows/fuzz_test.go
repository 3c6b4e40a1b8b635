package vpcrows

import (
	"bytes"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

// FuzzRows decodes any bytes as each kind of row and key. What decodes encodes to what decodes to the same.
func FuzzRows(f *testing.F) {
	for _, g := range goldenRows() {
		f.Add(g.key.Base, row.Encode(g.value).Base)
	}
	f.Add([]byte{}, []byte{0xa0})
	f.Add(prefix(familyRetired, goldenVPC, uint64(1)), []byte{0xbf, 0xff})
	f.Fuzz(func(t *testing.T, k, value []byte) {
		v := store.BytesValue(value)
		if _, _, err := ParseKey(k); err == nil {
			_, _ = decodeRetired(store.KV{Key: k, Value: v})
		}
		for _, g := range goldenRows() {
			first, err := g.decode(value)
			if err != nil {
				continue
			}
			encoded := row.Encode(first).Base
			second, err := g.decode(encoded)
			if err != nil || !bytes.Equal(row.Encode(second).Base, encoded) {
				t.Fatalf("%s %x becomes %x, %v", g.name, value, encoded, err)
			}
		}
		_, _ = DecodeVPC(v)
		_, _ = DecodeSubnet(v)
		_, _ = DecodeGroup(v)
		_, _ = DecodeRule(v)
		_, _ = DecodeInterface(v)
		_, _ = DecodeIdentity(v)
		_, _ = DecodeDHCP(v)
		_, _ = DecodeDefault(v)
	})
}
