package query

import (
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/assert"
)

// keepBodyBytes bounds what is kept of a request's memory for the next one.
const keepBodyBytes = 64 << 10

// buffer is the memory of one request, used again for another.
type buffer struct {
	body    []byte
	failure []byte // the answer, if it is an error: a flood of refusals leaves nothing to collect
	random  [16]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func (b *buffer) recycle() {
	if cap(b.body) > keepBodyBytes {
		b.body = nil
	}
	if cap(b.failure) > keepBodyBytes {
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

// readBody reads a body of bounded size in bounded time: nobody has been authenticated yet.
func (b *buffer) readBody(w http.ResponseWriter, r *http.Request, patience time.Duration) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil // nothing lifts a deadline that is set without a body: it would end the connection's next request
	}
	// The server lifts the deadline itself at the end of the body. A test's recorder has no connection to set it on.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
	body, err := b.readAll(w, r)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, errs.New(errs.RequestEntityTooLarge, "The request is larger than %d bytes.", MaxBodyBytes)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errs.New(errs.RequestTimeout, "The request's body did not arrive within %v.", patience)
	}
	if err != nil {
		return nil, errs.New(errs.MalformedQueryString, "The request's body cannot be read.")
	}
	return body, nil
}

// readAll takes memory ahead for what is said to come, but no more than is kept for every request anyway.
func (b *buffer) readAll(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > keepBodyBytes {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBodyBytes))
	}
	if int64(cap(b.body)) < r.ContentLength {
		b.body = make([]byte, max(1<<10, r.ContentLength))
	}
	body := b.body[:r.ContentLength]
	_, err := io.ReadFull(r.Body, body)
	return body, err
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
