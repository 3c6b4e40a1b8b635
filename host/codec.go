package host

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/internal/assert"
)

// Payload is a type that has an encoding on the host link.
type Payload interface {
	Instance | Interface | Mapping | Identity | Group | FleetHost | Info | InstanceStatus | ConsoleRequest | DialRequest | ImageRequest
}

var (
	encoding = newEncoding()
	decoding = newDecoding()
)

func newEncoding() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	assert.That(err == nil, "CBOR encoding options: %v", err)
	return mode
}

// newDecoding bounds what a peer can make this process allocate, and refuses an item that gives a field twice: two
// readers could each believe another value.
func newDecoding() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: 1 << 12,
		MaxMapPairs:      1 << 10,
	}.DecMode()
	assert.That(err == nil, "CBOR decoding options: %v", err)
	return mode
}

// Encode is the item's bytes: a CBOR map with integer keys in order, zero fields left out. It is deterministic.
func Encode[T Payload](v T) []byte {
	b, err := encoding.Marshal(v)
	assert.That(err == nil, "encode %T: %v", v, err)
	return b
}

// Decode reads an item. Unknown fields are ignored; a malformed, oversized or ambiguous item is an error. It does not
// judge what the fields say: see Instance.Validate and Interface.Validate.
func Decode[T Payload](b []byte) (T, error) {
	var v T
	if len(b) > MaxItemBytes {
		return v, fmt.Errorf("decode %T: %d bytes, at most %d", v, len(b), MaxItemBytes)
	}
	if err := decoding.Unmarshal(b, &v); err != nil {
		var zero T
		return zero, fmt.Errorf("decode %T: %w", v, err)
	}
	return v, nil
}
