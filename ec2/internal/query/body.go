package query

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/svc/obs"
)

// MaxBodyBytes bounds a request. The largest useful one launches with 16 KiB of user data; bulk tagging and rule lists stay
// well below this too.
const MaxBodyBytes = 1 << 20

// freeBodyBytes of every body need no place in a budget: what nearly all requests are. The bound of connections bounds
// them together.
const freeBodyBytes = 32 << 10

// bodyRoom bounds the bytes of bodies beyond that, which are kept while their requests are: of connections that have shown a
// credential, and of those that have not. Apart, so that strangers keep out strangers only.
type bodyRoom struct {
	max              int64
	known, strangers atomic.Int64
}

// defaultBodyRoom is for each of the two.
const defaultBodyRoom = 64 << 20

// body is one body as it arrives.
type body struct {
	room  *atomic.Int64
	max   int64
	taken int64
	bytes []byte
}

var errNoRoom = errors.New("too much of other requests is kept")

// begin makes room for nothing yet; the body's end must be called.
func (b *bodyRoom) begin(r *http.Request) *body {
	room := &b.strangers
	if obs.WasProven(r.Context()) {
		room = &b.known
	}
	return &body{room: room, max: b.max}
}

func (b *body) end() { b.room.Add(-b.taken) }

// grow doubles the room for the body, as far as the budget goes.
func (b *body) grow() error {
	size := min(max(2*cap(b.bytes), 1<<10), MaxBodyBytes+1)
	if more := int64(max(size-freeBodyBytes, 0)) - b.taken; more > 0 {
		if b.room.Add(more) > b.max {
			b.room.Add(-more)
			return errNoRoom
		}
		b.taken += more
	}
	b.bytes = append(make([]byte, 0, size), b.bytes...)
	return nil
}

// readAll is io.ReadAll within the budget. It takes room for what has come and not for what is announced.
func (b *body) readAll(r io.Reader) error {
	for {
		if len(b.bytes) == cap(b.bytes) {
			if err := b.grow(); err != nil {
				return err
			}
		}
		n, err := r.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// read reads a body of bounded size in bounded time: nobody has been authenticated yet.
func (b *body) read(w http.ResponseWriter, r *http.Request, patience time.Duration) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil // nothing lifts a deadline that is set without a body: it would end the connection's next request
	}
	// The server lifts the deadline itself at the end of the body. A test's recorder has no connection to set it on.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
	err := b.readAll(http.MaxBytesReader(w, r.Body, MaxBodyBytes))
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*http.MaxBytesError)):
		return errs.New(errs.RequestEntityTooLarge, "The request is larger than %d bytes.", MaxBodyBytes)
	case errors.Is(err, errNoRoom):
		w.Header().Set("Connection", "close") // the rest of the body is not read
		return &RetryError{Err: errs.Throttled, After: time.Second}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errs.New(errs.RequestTimeout, "The request's body did not arrive within %v.", patience)
	}
	return errs.New(errs.MalformedQueryString, "The request's body cannot be read.")
}
