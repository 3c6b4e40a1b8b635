// Package row encodes rows: CBOR maps with integer keys, in canonical form, with slots where a value exists only at
// commit.
//
// A row type is a struct whose fields have tags like `cbor:"1,keyasint"`. Field numbers are for ever: a removed field's
// number is not reused. Key 0 is kept for the schema version, which a type has when it implements Schema: a row of a
// newer schema is read, but never rewritten by an older binary, see Rewritable.
//
// Pure. Deliberately absent: floats' and times' special forms; use integers with their unit in the name. Start with
// Encode, Bind and Decode.
package row

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/store"
)

// ErrNewerSchema says that a row was written by a newer version of the program, which alone may rewrite it.
var ErrNewerSchema = errors.New("row has a newer schema: upgrade this program before it changes the row")

// Schema is implemented by row types past their first schema.
type Schema interface {
	// SchemaVersion is at least 2; a type without the method is at 1.
	SchemaVersion() uint64
}

const schemaKey = 0

var (
	encoder = must(cbor.CoreDetEncOptions().EncMode())
	decoder = must(cbor.DecOptions{MaxNestedLevels: 16, MaxArrayElements: 65536, MaxMapPairs: 65536}.DecMode())
)

func must[T any](mode T, err error) T {
	assert.That(err == nil, "CBOR mode: %v", err)
	return mode
}

// Field is a field of a row that is added at encoding, in place of the struct's own field of that number.
type Field struct {
	Key   int
	value store.Template
}

// Bind makes a field hold a slot's result: an integer, a label as text, or a group's bit as boolean.
func Bind(key int, s store.Slot) Field {
	return Field{Key: key, value: store.Template{Splices: []store.Splice{{Slot: s, As: store.EncCBOR}}}}
}

// Embed makes a field hold another encoded row, with its slots.
func Embed(key int, t store.Template) Field { return Field{Key: key, value: t} }

// Encode encodes a row. It panics when v cannot be encoded or is no map with integer keys: row types are code.
func Encode(v any, bind ...Field) store.Template {
	b, err := encoder.Marshal(v)
	assert.That(err == nil, "encode row %T: %v", v, err)
	version := SchemaOf(v)
	if len(bind) == 0 && version == 1 {
		return store.Bytes(b)
	}
	fields := fieldsOf(v, b)
	if version > 1 {
		fields = set(fields, Field{Key: schemaKey, value: store.Template{Base: must(encoder.Marshal(version))}})
	}
	for _, f := range bind {
		fields = set(fields, f)
	}
	return join(fields)
}

// Decode decodes a row. Unknown fields, as of a newer schema, are left out.
func Decode[T any](b []byte) (T, error) {
	var v T
	if err := decoder.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("decode row %T: %w", v, err)
	}
	return v, nil
}

// SchemaOf returns the schema version that v is written with.
func SchemaOf(v any) uint64 {
	if s, ok := v.(Schema); ok {
		return s.SchemaVersion()
	}
	return 1
}

// Rewritable returns ErrNewerSchema when the stored row old is of a newer schema than v, which is about to replace it.
func Rewritable(old []byte, v any) error {
	head, err := Decode[struct {
		Version uint64 `cbor:"0,keyasint,omitempty"`
	}](old)
	if err != nil {
		return err
	}
	if head.Version > SchemaOf(v) {
		return fmt.Errorf("row %T of schema %d: %w", v, head.Version, ErrNewerSchema)
	}
	return nil
}

func fieldsOf(v any, b []byte) []Field {
	var m map[int]cbor.RawMessage
	err := decoder.Unmarshal(b, &m)
	assert.That(err == nil, "row %T is no map with integer keys: %v", v, err)
	fields := make([]Field, 0, len(m)+4)
	for key, raw := range m {
		fields = append(fields, Field{Key: key, value: store.Template{Base: raw}})
	}
	return fields
}

func set(fields []Field, f Field) []Field {
	fields = slices.DeleteFunc(fields, func(have Field) bool { return have.Key == f.Key })
	return append(fields, f)
}

// join writes the map in canonical order, which is that of the encoded keys.
func join(fields []Field) store.Template {
	keys := make(map[int][]byte, len(fields))
	for _, f := range fields {
		keys[f.Key] = must(encoder.Marshal(f.Key))
	}
	slices.SortFunc(fields, func(a, b Field) int { return bytes.Compare(keys[a.Key], keys[b.Key]) })
	out := store.Template{Kind: store.KindBytes, Base: mapHead(len(fields))}
	for _, f := range fields {
		out.Base = append(out.Base, keys[f.Key]...)
		for _, s := range f.value.Splices {
			s.Offset += len(out.Base)
			out.Splices = append(out.Splices, s)
		}
		out.Base = append(out.Base, f.value.Base...)
	}
	return out
}

func mapHead(n int) []byte {
	const major = 5 << 5
	if n < 24 {
		return []byte{major | byte(n)}
	}
	assert.That(n < 256, "row of %d fields", n)
	return []byte{major | 24, byte(n)}
}
