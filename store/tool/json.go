package tool

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// appendRow appends a row as one line of JSON: key, version, and value.
func appendRow(dst []byte, kv store.KV) []byte {
	dst = appendKey(append(dst, `{"key":`...), kv.Key)
	dst = append(dst, `,"version":`...)
	dst = strconv.AppendUint(dst, uint64(kv.Version), 10)
	dst = append(dst, `,"value":`...)
	dst = appendValue(dst, kv.Value)
	return append(dst, '}', '\n')
}

// appendKey shows a key's elements, or its bytes in hexadecimal.
func appendKey(dst, key []byte) []byte {
	if parts, err := tuple.Decode(key); err == nil {
		return appendJSON(dst, parts)
	}
	return appendText(dst, "0x"+hex.EncodeToString(key))
}

// appendValue shows an integer as a number, a CBOR map as an object, and other bytes in hexadecimal.
func appendValue(dst []byte, v store.Value) []byte {
	if v.Kind == store.KindInt64 {
		return strconv.AppendInt(dst, v.Int, 10)
	}
	var m map[any]any
	if err := cbor.Unmarshal(v.Bytes, &m); err == nil {
		return appendJSON(dst, m)
	}
	return appendJSON(dst, v.Bytes)
}

// appendJSON writes what tuples and CBOR hold. Maps are ordered by number, then by text.
func appendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case string:
		return appendText(dst, v)
	case []byte:
		return appendText(dst, "0x"+hex.EncodeToString(v))
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, e)
		}
		return append(dst, ']')
	case map[any]any:
		return appendMap(dst, v)
	}
	return appendText(dst, fmt.Sprint(v))
}

func appendMap(dst []byte, m map[any]any) []byte {
	keys := make([]any, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareKeys)
	dst = append(dst, '{')
	for i, key := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, fmt.Sprint(key)), ':')
		dst = appendJSON(dst, m[key])
	}
	return append(dst, '}')
}

func compareKeys(a, b any) int {
	x, xIsNumber := a.(uint64)
	y, yIsNumber := b.(uint64)
	if xIsNumber && yIsNumber {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

func appendText(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return append(dst, `""`...) // text always encodes
	}
	return append(dst, b...)
}
