package query

import (
	"encoding/hex"
	"io"
	"runtime"
	"sync"

	"github.com/nimbrel/nimbrel/internal/assert"
)

// buffer is the memory of one request, used again for another unless it is large.
type buffer struct {
	body    []byte
	failure []byte // the answer, if it is an error: a flood of refusals leaves nothing to collect
	random  [16]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func (b *buffer) recycle() {
	if cap(b.body) > freeBodyBytes {
		b.body = nil
	}
	if cap(b.failure) > freeBodyBytes {
		b.failure = nil
	}
	buffers.Put(b)
}

// Bounds of the memory that is kept for answers: a page of 1,000 instances has 4 MB, and collecting that after each costs
// more than writing it. Small answers are not worth it.
const (
	minAnswerBytes = 64 << 10
	maxAnswerBytes = 8 << 20
)

// answers are buffers for large answers. There are as many as are being made and written at one time, and those that are
// kept are few.
type answers chan []byte

func newAnswers() answers { return make(answers, 2*runtime.GOMAXPROCS(0)) }

func (a answers) take() []byte {
	select {
	case b := <-a:
		return b[:0]
	default:
		return nil
	}
}

// keep takes an answer that was written. Nothing may look at it any more.
func (a answers) keep(b []byte) {
	if cap(b) < minAnswerBytes || cap(b) > maxAnswerBytes {
		return
	}
	select {
	case a <- b:
	default:
	}
}

// newRequestID makes a random UUID (version 4).
func (b *buffer) newRequestID(random io.Reader) string {
	raw := b.random[:]
	_, err := io.ReadFull(random, raw)
	assert.That(err == nil, "the random source never fails: %v", err)
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	var text [36]byte
	for i, at := range [...]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34} {
		hex.Encode(text[at:], raw[i:i+1])
	}
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
