package transactor

import (
	"encoding/binary"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// key resolves a key's slots.
func (r *run) key(t store.Template) ([]byte, error) {
	if !t.HasSlots() {
		return t.Base, nil
	}
	key := r.splice(t)
	if len(key) > store.MaxKeyBytes {
		return nil, refuse(store.ReasonTooLarge, "key of %d bytes, at most %d", len(key), store.MaxKeyBytes)
	}
	return key, nil
}

// value resolves a value's slots.
func (r *run) value(t store.Template) (store.Value, error) {
	b := t.Base
	if t.HasSlots() {
		b = r.splice(t)
	}
	if len(b) > store.MaxValueBytes {
		return store.Value{}, refuse(store.ReasonTooLarge, "value of %d bytes, at most %d", len(b), store.MaxValueBytes)
	}
	if t.Kind != store.KindInt64 {
		return store.BytesValue(b), nil
	}
	if len(b) != 8 {
		return store.Value{}, refuse(store.ReasonInvalid, "integer value of %d bytes, must be 8", len(b))
	}
	return store.IntValue(int64(binary.BigEndian.Uint64(b))), nil
}

func (r *run) splice(t store.Template) []byte {
	out := make([]byte, 0, len(t.Base)+16*len(t.Splices))
	from := 0
	for _, s := range t.Splices {
		out = append(out, t.Base[from:s.Offset]...)
		out = r.appendSlot(out, s)
		from = s.Offset
	}
	return append(out, t.Base[from:]...)
}

func (r *run) appendSlot(dst []byte, s store.Splice) []byte {
	if s.Slot.Kind == store.SlotVersion {
		return appendUint(dst, uint64(r.in.Next), s.As)
	}
	result := r.results[s.Slot.Op]
	switch s.Slot.Kind {
	case store.SlotInt:
		return appendInt(dst, result.Int, s.As)
	case store.SlotElement:
		return appendUint(dst, result.Element, s.As)
	case store.SlotLabel:
		return appendLabel(dst, result.Label, s.As)
	default:
		return appendBit(dst, result.Ran, s.As)
	}
}

func appendInt(dst []byte, n int64, as store.Encoding) []byte {
	switch {
	case n >= 0:
		return appendUint(dst, uint64(n), as)
	case as == store.EncTuple:
		return tuple.AppendInt(dst, n)
	case as == store.EncCBOR:
		return appendHead(dst, cborNegative, uint64(-(n + 1)))
	default:
		return binary.BigEndian.AppendUint64(dst, uint64(n))
	}
}

func appendUint(dst []byte, n uint64, as store.Encoding) []byte {
	switch as {
	case store.EncTuple:
		return tuple.AppendUint(dst, n)
	case store.EncCBOR:
		return appendHead(dst, cborUnsigned, n)
	default:
		return binary.BigEndian.AppendUint64(dst, n)
	}
}

func appendLabel(dst, label []byte, as store.Encoding) []byte {
	switch as {
	case store.EncTuple:
		return tuple.AppendText(dst, string(label))
	case store.EncCBOR:
		return append(appendHead(dst, cborText, uint64(len(label))), label...)
	default:
		return append(dst, label...)
	}
}

func appendBit(dst []byte, ran bool, as store.Encoding) []byte {
	n := byte(0)
	if ran {
		n = 1
	}
	switch as {
	case store.EncTuple:
		return tuple.AppendBool(dst, ran)
	case store.EncCBOR:
		return append(dst, cborFalse+n)
	default:
		return binary.BigEndian.AppendUint64(dst, uint64(n))
	}
}

// CBOR's major types in a head's upper three bits, and its simple values (RFC 8949 section 3).
const (
	cborUnsigned = 0 << 5
	cborNegative = 1 << 5
	cborText     = 3 << 5
	cborFalse    = 0xF4
)

// appendHead appends the shortest head of an item, as canonical encoding demands.
func appendHead(dst []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n < 1<<8:
		return append(dst, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, major|27), n)
	}
}
