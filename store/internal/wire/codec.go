package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/internal/assert"
)

// maxParts bounds the maps and nulls of one message. A byte on the wire can become a structure of hundreds in memory; a commit of
// MaxOperations with their templates, predicates and slots, and a transaction of MaxDeletedRows, stay below.
const maxParts = 1 << 17

var (
	encoder = must(cbor.CoreDetEncOptions().EncMode())
	decoder = must(cbor.DecOptions{
		MaxNestedLevels: 32, MaxArrayElements: maxParts, MaxMapPairs: 64,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
	}.DecMode())
)

// ErrTooLarge says that a message is beyond its bound.
var ErrTooLarge = errors.New("message is too large")

func must[T any](mode T, err error) T {
	assert.That(err == nil, "CBOR mode: %v", err)
	return mode
}

// Encode encodes a message of this package, a commit or an answer.
func Encode(v any) []byte {
	b, err := encoder.Marshal(v)
	assert.That(err == nil, "encode message %T: %v", v, err)
	return b
}

// Decode decodes a message of this package, a commit or an answer. The error wraps ErrTooLarge when it has more parts than
// any that is valid.
func Decode[T any](b []byte) (*T, error) {
	v := new(T)
	if parts(b) > maxParts {
		return nil, fmt.Errorf("decode message %T: %w", *v, ErrTooLarge)
	}
	if err := decoder.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("decode message %T: %w", *v, err)
	}
	return v, nil
}

// parts counts the maps and simple values in CBOR of definite lengths, where every item's head follows the last one's, however they nest. What
// is malformed counts up to there: the decoder refuses it.
func parts(b []byte) (n int) {
	for len(b) > 0 {
		major, info := b[0]>>5, b[0]&31
		b = b[1:]
		size := 0
		if info >= 24 && info <= 27 {
			size = 1 << (info - 24)
		}
		if info > 27 || size > len(b) {
			return n
		}
		length := uint64(info)
		if size > 0 {
			var wide [8]byte
			copy(wide[8-size:], b[:size])
			length = binary.BigEndian.Uint64(wide[:])
		}
		b = b[size:]
		switch major {
		case 2, 3:
			if length > uint64(len(b)) {
				return n
			}
			b = b[length:]
		case 5:
			n++
		case 7: // null, too, becomes a structure
			n++
		}
	}
	return n
}

// WriteMessage writes a message with its length before it.
func WriteMessage(w io.Writer, body []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...))
	return err
}

// ReadMessage reads a message of at most limit bytes. Memory grows with what arrives, not with what is announced.
func ReadMessage(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > int64(limit) {
		return nil, fmt.Errorf("read message of %d bytes: %w: at most %d", n, ErrTooLarge, limit)
	}
	body, err := io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(body)) < n {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}
