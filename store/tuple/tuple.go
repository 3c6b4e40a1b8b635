// Package tuple encodes lists of values as bytes whose order is the order of the lists.
//
// Element by element: a code byte, then the content. Byte strings (code 1) and text (code 2) escape 0x00 as 0x00 0xFF
// and end with 0x00. Integers take codes 0x0C to 0x1C: 0x14 is zero, above it the positive ones by length in bytes,
// below it the negative ones, stored as one's complement. False is 0x26 and true 0x27. The layout is the published one
// of FoundationDB's tuple layer for these types, so its order properties are well known.
//
// No element starts with 0xFF, so [p, p+0xFF) holds exactly the lists that extend the list encoded as p.
//
// Pure and without state. Deliberately absent: floats, nil and nested lists. Start with Append and Decode.
package tuple

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"reflect"
)

const (
	codeBytes = 0x01
	codeText  = 0x02
	codeZero  = 0x14 // integers: codeZero-8 to codeZero+8
	codeFalse = 0x26
	codeTrue  = 0x27

	escape = 0xFF
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed tuple")

// AppendBytes appends one byte string.
func AppendBytes(dst, b []byte) []byte { return appendEscaped(append(dst, codeBytes), string(b)) }

// AppendText appends one text; it need not be valid UTF-8.
func AppendText(dst []byte, s string) []byte { return appendEscaped(append(dst, codeText), s) }

// AppendUint appends one integer. The same number encodes the same through AppendInt.
func AppendUint(dst []byte, n uint64) []byte {
	length := (bits.Len64(n) + 7) / 8
	dst = append(dst, byte(codeZero+length))
	return appendLow(dst, n, length)
}

// AppendInt appends one signed integer.
func AppendInt(dst []byte, n int64) []byte {
	if n >= 0 {
		return AppendUint(dst, uint64(n))
	}
	magnitude := uint64(-(n + 1)) + 1 // -n overflows for the least integer
	length := (bits.Len64(magnitude) + 7) / 8
	dst = append(dst, byte(codeZero-length))
	return appendLow(dst, ^magnitude, length)
}

// AppendBool appends one truth value.
func AppendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, codeTrue)
	}
	return append(dst, codeFalse)
}

// Append appends one element: a string or []byte or boolean or integer type, named types included. It panics on any
// other type: keys are built by code, never from outside input.
func Append(dst []byte, part any) []byte {
	switch v := part.(type) {
	case string:
		return AppendText(dst, v)
	case []byte:
		return AppendBytes(dst, v)
	case uint64:
		return AppendUint(dst, v)
	}
	v := reflect.ValueOf(part)
	switch v.Kind() {
	case reflect.String:
		return AppendText(dst, v.String())
	case reflect.Bool:
		return AppendBool(dst, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return AppendInt(dst, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return AppendUint(dst, v.Uint())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return AppendBytes(dst, v.Bytes())
		}
	}
	panic(fmt.Sprintf("tuple: a key element cannot be a %T", part))
}

// Decode splits b into its elements: string, []byte, bool, int64 for negative and uint64 for other integers.
// It accepts exactly what Append produces.
func Decode(b []byte) ([]any, error) {
	var parts []any
	for len(b) > 0 {
		part, rest, err := decodeOne(b)
		if err != nil {
			return nil, err
		}
		parts, b = append(parts, part), rest
	}
	return parts, nil
}

func decodeOne(b []byte) (part any, rest []byte, err error) {
	switch code := b[0]; {
	case code == codeBytes:
		s, rest, err := unescape(b[1:])
		return s, rest, err
	case code == codeText:
		s, rest, err := unescape(b[1:])
		return string(s), rest, err
	case code == codeFalse, code == codeTrue:
		return code == codeTrue, b[1:], nil
	case code >= codeZero-8 && code <= codeZero+8:
		return decodeInt(int(code)-codeZero, b[1:])
	default:
		return nil, nil, fmt.Errorf("code 0x%02x: %w", code, ErrMalformed)
	}
}

// decodeInt reads an integer whose signed length in bytes is given.
func decodeInt(length int, b []byte) (any, []byte, error) {
	size := max(length, -length)
	if len(b) < size {
		return nil, nil, fmt.Errorf("integer of %d bytes in %d: %w", size, len(b), ErrMalformed)
	}
	var word [8]byte
	copy(word[8-size:], b[:size])
	n := binary.BigEndian.Uint64(word[:])
	if length < 0 {
		return decodeNegative(n, size, b[size:])
	}
	if size > 0 && b[0] == 0 {
		return nil, nil, fmt.Errorf("integer with a leading zero: %w", ErrMalformed)
	}
	return n, b[size:], nil
}

func decodeNegative(n uint64, size int, rest []byte) (any, []byte, error) {
	magnitude := ^n
	if size < 8 {
		magnitude &= 1<<(8*size) - 1
	}
	if (bits.Len64(magnitude)+7)/8 != size || magnitude > 1<<63 {
		return nil, nil, fmt.Errorf("negative integer not in its shortest form: %w", ErrMalformed)
	}
	return -int64(magnitude-1) - 1, rest, nil
}

func appendEscaped(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		dst = append(dst, s[i])
		if s[i] == 0 {
			dst = append(dst, escape)
		}
	}
	return append(dst, 0)
}

func unescape(b []byte) (content, rest []byte, err error) {
	content = []byte{}
	for {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return nil, nil, fmt.Errorf("string without its end: %w", ErrMalformed)
		}
		content = append(content, b[:i]...)
		if i+1 == len(b) || b[i+1] != escape {
			return content, b[i+1:], nil
		}
		content, b = append(content, 0), b[i+2:]
	}
}

// appendLow appends the lowest length bytes of n, big-endian.
func appendLow(dst []byte, n uint64, length int) []byte {
	var word [8]byte
	binary.BigEndian.PutUint64(word[:], n)
	return append(dst, word[8-length:]...)
}
