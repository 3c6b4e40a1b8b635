// Package wire carries session messages over a byte stream: a length of four bytes, little-endian, then the message.
//
// The stream underneath brings credit and deadlines; a length beyond dispatch.MaxMessageBytes ends the session before
// anything is allocated for it.
package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/session"
)

// Stream is the name of the stream that a target opens for its session.
const Stream = "session"

// Reader reads messages.
type Reader struct{ r *bufio.Reader }

// NewReader reads from r, ahead of what it answers.
func NewReader(r io.Reader) *Reader { return &Reader{bufio.NewReader(r)} }

// Next reads one message; io.EOF only between two.
func (r *Reader) Next() (session.Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > dispatch.MaxMessageBytes {
		return nil, fmt.Errorf("read session message: %d bytes, want 1 to %d", n, dispatch.MaxMessageBytes)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r.r, body); err != nil {
		return nil, fmt.Errorf("read session message: %w", err)
	}
	return session.Decode(body)
}

// Write writes messages in order.
func Write(w io.Writer, messages ...session.Message) error {
	var buf []byte
	for i, m := range messages {
		start := len(buf)
		buf = append(buf, 0, 0, 0, 0)
		var err error
		if buf, err = session.Encode(buf, m); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(buf[start:], uint32(len(buf)-start-4))
		if len(buf) < dispatch.PartBytes && i < len(messages)-1 {
			continue
		}
		if _, err := w.Write(buf); err != nil {
			return fmt.Errorf("write session message: %w", err)
		}
		buf = buf[:0]
	}
	return nil
}
