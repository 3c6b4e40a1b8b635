package store

import (
	"encoding/binary"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Encoding tells how a slot's result becomes bytes.
type Encoding uint8

// The encodings; the numbers are part of the format.
const (
	EncTuple Encoding = 1 // a tuple element: integer, text for labels, truth value for bits
	EncBE64  Encoding = 2 // 8 bytes, big-endian; not for labels
	EncCBOR  Encoding = 3 // one CBOR item: integer, text for labels, boolean for bits
	EncRaw   Encoding = 4 // the label's bytes as they are; labels only
)

// SlotKind tells what a slot holds.
type SlotKind uint8

// The kinds of slots; the numbers are part of the format.
const (
	SlotInt     SlotKind = 1 // int64: result of Add, Min and Max
	SlotElement SlotKind = 2 // uint64: result of Take
	SlotLabel   SlotKind = 3 // bytes: label of the alternative that FirstOf chose
	SlotBit     SlotKind = 4 // whether a group ran
	SlotVersion SlotKind = 5 // version of the commit itself
)

// Slot stands for a result that exists only at commit. It is made by an operation of a Tx and valid only in later
// operations of the same Tx, inside the group that made it or deeper.
type Slot struct {
	Op   uint32   `cbor:"1,keyasint"`
	Kind SlotKind `cbor:"2,keyasint"`
}

// Splice puts a slot's bytes at an offset of a template's constant bytes.
type Splice struct {
	Offset int      `cbor:"1,keyasint"`
	Slot   Slot     `cbor:"2,keyasint"`
	As     Encoding `cbor:"3,keyasint"`
}

// Template is a key or a value: constant bytes with slots spliced in, offsets ascending. Build it with Key, Bytes, Int,
// SlotValue or row.Encode. A key's constant bytes before its first slot bound the keys it can become.
type Template struct {
	Base    []byte   `cbor:"1,keyasint"`
	Splices []Splice `cbor:"2,keyasint,omitempty"`
	Kind    Kind     `cbor:"3,keyasint,omitempty"`
}

// Key builds a key from elements: strings, byte strings, integers, truth values (named types too) and slots.
// It panics on any other type.
func Key(parts ...any) Template {
	var t Template
	for _, part := range parts {
		if s, ok := part.(Slot); ok {
			t.Splices = append(t.Splices, Splice{Offset: len(t.Base), Slot: s, As: EncTuple})
			continue
		}
		t.Base = tuple.Append(t.Base, part)
	}
	return t
}

// RawKey returns a template of the key as it is, without a slot.
func RawKey(key []byte) Template { return Template{Base: key} }

// Prefix builds constant key bytes from elements, for reads, ranges, pools and watches. It panics on a slot.
func Prefix(parts ...any) []byte {
	t := Key(parts...)
	assert.That(!t.HasSlots(), "a prefix holds no slot")
	return t.Base
}

// PrefixEnd returns the exclusive end of the keys that extend p by tuple elements.
func PrefixEnd(p []byte) []byte {
	return append(append(make([]byte, 0, len(p)+1), p...), 0xFF)
}

// HasPrefix tells whether key is p or extends it by tuple elements.
func HasPrefix(key, p []byte) bool {
	return len(key) >= len(p) && string(key[:len(p)]) == string(p) && (len(key) == len(p) || key[len(p)] != 0xFF)
}

// Bytes is a value of bytes.
func Bytes(b []byte) Template { return Template{Base: b, Kind: KindBytes} }

// Int is a value that can be added to.
func Int(n int64) Template {
	return Template{Base: binary.BigEndian.AppendUint64(nil, uint64(n)), Kind: KindInt64}
}

// SlotValue is an integer value taken from a slot; not for labels.
func SlotValue(s Slot) Template {
	return Template{Splices: []Splice{{Slot: s, As: EncBE64}}, Kind: KindInt64}
}

// HasSlots tells whether the content is known only at commit.
func (t Template) HasSlots() bool { return len(t.Splices) > 0 }

// ConstantPrefix returns the bytes before the first slot.
func (t Template) ConstantPrefix() []byte {
	if !t.HasSlots() {
		return t.Base
	}
	return t.Base[:t.Splices[0].Offset]
}

// prefixed returns the template with p before it.
func (t Template) prefixed(p []byte) Template {
	out := Template{Base: make([]byte, 0, len(p)+len(t.Base)), Kind: t.Kind}
	out.Base = append(append(out.Base, p...), t.Base...)
	if t.HasSlots() {
		out.Splices = make([]Splice, len(t.Splices))
		for i, s := range t.Splices {
			s.Offset += len(p)
			out.Splices[i] = s
		}
	}
	return out
}

// constant returns the value of a template without slots.
func (t Template) constant() Value {
	if t.Kind == KindInt64 {
		return IntValue(int64(binary.BigEndian.Uint64(t.Base)))
	}
	return BytesValue(t.Base)
}
