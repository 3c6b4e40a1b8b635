package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/nimbrel/nimbrel/image/inspect"
)

// ChunkBytes is how much of a disk one call of Sink.Chunk carries.
const ChunkBytes = 1 << 20

// Frames are what the worker sends: a kind, a length (big endian) and as many bytes.
const (
	frameSummary = 's' // Summary as JSON: first
	frameChunk   = 'c' // offset (8 bytes, big endian), data
	frameEnd     = 'e' // the disk's size: last
	frameRefusal = 'r' // inspect.Refusal as JSON: instead of the rest
	frameFailure = 'f' // text: instead of the rest
	frameAlive   = 'a' // nothing: the worker has read aliveBytes more, and has had nothing to send

	frameHeader  = 5
	frameMax     = 8 + ChunkBytes
	failureMax   = 1000 // bytes of text that are passed on
	summaryBytes = 4096
	aliveBytes   = 8 << 20
)

// Summary is what a file is.
type Summary struct {
	Format       string `json:"format"`
	OVA          bool   `json:"ova,omitempty"`
	VirtualBytes uint64 `json:"virtualBytes"`
}

// Sink takes a disk. Its errors end the conversion.
type Sink interface {
	// Begin is called once, before any chunk.
	Begin(s Summary) error
	// Chunk gets ChunkBytes at a multiple of them, the last chunk what is left. Offsets rise; what is left out is zeros.
	// The data are valid during the call.
	Chunk(offset uint64, data []byte) error
}

// frameWriter is a Sink at the worker's end.
type frameWriter struct{ w io.Writer }

func (f frameWriter) frame(kind byte, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	head := be.AppendUint32([]byte{kind}, uint32(n))
	for _, p := range append([][]byte{head}, parts...) {
		if _, err := f.w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func (f frameWriter) json(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.frame(kind, b)
}

func (f frameWriter) Begin(s Summary) error { return f.json(frameSummary, s) }

func (f frameWriter) Chunk(offset uint64, data []byte) error {
	return f.frame(frameChunk, be.AppendUint64(nil, offset), data)
}

// end sends the last frame.
func (f frameWriter) end(bytes uint64, err error) error {
	var refusal *inspect.Refusal
	switch {
	case err == nil:
		return f.frame(frameEnd, be.AppendUint64(nil, bytes))
	case errors.As(err, &refusal):
		return f.json(frameRefusal, refusal)
	}
	return f.frame(frameFailure, []byte(err.Error()[:min(len(err.Error()), failureMax)]))
}

// receiver believes nothing that the worker sends: the file may have taken it over.
type receiver struct {
	sink    Sink
	limits  inspect.Limits
	summary *Summary
	next    uint64 // least offset that may come
}

// errWorker: the worker sent what it never sends.
var errWorker = errors.New("the converting process broke its protocol: the file may be an attack")

// receive reads frames until the last one. The error of a refused file is a *inspect.Refusal.
func (c *receiver) receive(r io.Reader) (Summary, error) {
	buffer := make([]byte, frameMax)
	for {
		if _, err := io.ReadFull(r, buffer[:frameHeader]); err != nil {
			return Summary{}, fmt.Errorf("the converting process ended early: %w", err)
		}
		kind, n := buffer[0], be.Uint32(buffer[1:])
		if n > frameMax || kind != frameChunk && n > summaryBytes {
			return Summary{}, fmt.Errorf("frame of %d bytes: %w", n, errWorker)
		}
		if _, err := io.ReadFull(r, buffer[:n]); err != nil {
			return Summary{}, fmt.Errorf("the converting process ended early: %w", err)
		}
		done, err := c.frame(kind, buffer[:n])
		if err != nil {
			return Summary{}, err
		}
		if done {
			return *c.summary, nil
		}
	}
}

func (c *receiver) frame(kind byte, b []byte) (done bool, err error) {
	switch {
	case kind == frameRefusal:
		var refusal inspect.Refusal
		if json.Unmarshal(b, &refusal) != nil {
			return false, errWorker
		}
		refusal.Format, refusal.Reason = printable(refusal.Format), printable(refusal.Reason)
		refusal.Detail, refusal.Fix = printable(refusal.Detail), printable(refusal.Fix)
		return false, &refusal
	case kind == frameFailure:
		return false, fmt.Errorf("convert image: %s", printable(string(b)))
	case kind == frameAlive && len(b) == 0:
		return false, nil
	case kind == frameSummary && c.summary == nil:
		return false, c.begin(b)
	case kind == frameChunk && c.summary != nil && len(b) >= 8:
		return false, c.chunk(be.Uint64(b), b[8:])
	case kind == frameEnd && c.summary != nil && len(b) == 8 && be.Uint64(b) == c.summary.VirtualBytes:
		return true, nil
	}
	return false, fmt.Errorf("frame %q: %w", kind, errWorker)
}

func (c *receiver) begin(b []byte) error {
	var s Summary
	most := c.limits.MaxVirtualBytes
	if most == 0 {
		most = inspect.DefaultMaxVirtualBytes
	}
	if json.Unmarshal(b, &s) != nil || s.VirtualBytes == 0 || s.VirtualBytes > most || s.VirtualBytes%512 != 0 {
		return fmt.Errorf("summary: %w", errWorker)
	}
	s.Format = printable(s.Format)
	c.summary = &s
	return c.sink.Begin(s)
}

func (c *receiver) chunk(offset uint64, data []byte) error {
	total := c.summary.VirtualBytes
	if offset%ChunkBytes != 0 || offset < c.next || offset >= total || uint64(len(data)) != min(ChunkBytes, total-offset) {
		return fmt.Errorf("%d bytes at %d: %w", len(data), offset, errWorker)
	}
	c.next = offset + ChunkBytes
	return c.sink.Chunk(offset, data)
}

// printable keeps text of the worker from reaching a terminal as anything but text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// telling is the worker's input. It tells of what is read while nothing is sent, as in tables and checksums, so that work is
// told from a standstill. It is for the goroutine that sends.
type telling struct {
	r      io.ReaderAt
	out    frameWriter
	untold int
}

func (t *telling) ReadAt(p []byte, offset int64) (int, error) {
	n, err := t.r.ReadAt(p, offset)
	if t.untold += n; t.untold >= aliveBytes {
		t.untold = 0
		if err := t.out.frame(frameAlive); err != nil {
			return n, err
		}
	}
	return n, err
}
