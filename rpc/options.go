package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Handler serves what the peer starts. Methods run on goroutines of their own and may block, except that one-way messages
// come one at a time in the order sent.
type Handler interface {
	// ServeRequest answers a request. The body is the handler's. An *Error keeps its code on the way back; any other
	// error becomes CodeInternal with the error's text.
	ServeRequest(ctx context.Context, c *Conn, method uint32, body []byte) ([]byte, error)
	// ServeOneway takes a message without an answer.
	ServeOneway(c *Conn, method uint32, body []byte)
	// ServeStream serves a stream that the peer opened; the stream is closed when it returns, and reset with the error
	// if there is one. ErrUnknownStream tells the peer that there is no such stream. ctx ends when the peer resets the
	// stream, as it does when it no longer waits for it, and with the connection.
	ServeStream(ctx context.Context, s *Stream) error
}

// Options set a connection's bounds. The zero value of each field means the default named.
type Options struct {
	Handler Handler // nil refuses everything

	// Name is what this end calls itself where there is no certificate, and Agent describes its build. Both are told to
	// the peer and bounded by maxHelloText.
	Name, Agent string

	MaxBody      int           // bytes in one request, response or one-way message; 1 MiB, which is also the most
	MaxRequests  int           // requests being served at once, beyond which they are refused; 256
	MaxOneways   int           // one-way messages waiting for the handler, beyond which the connection fails; 1024
	MaxStreams   int           // streams opened by the peer at once, beyond which they are refused; 64
	StreamWindow int           // bytes of a stream waiting for its reader; 256 KiB
	QueueBytes   int           // bytes waiting to be written, beyond which senders wait; 512 KiB
	HelloTimeout time.Duration // for the hello in each direction; 10 s
	WriteTimeout time.Duration // for one write to make progress, beyond which the connection fails; 30 s
}

func (o Options) withDefaults() Options {
	setDefault(&o.MaxBody, MaxBodyBytes)
	setDefault(&o.MaxRequests, 256)
	setDefault(&o.MaxOneways, 1024)
	setDefault(&o.MaxStreams, 64)
	setDefault(&o.StreamWindow, 256<<10)
	setDefault(&o.QueueBytes, 512<<10)
	setDefault(&o.HelloTimeout, 10*time.Second)
	setDefault(&o.WriteTimeout, 30*time.Second)
	o.MaxBody = min(o.MaxBody, MaxBodyBytes)
	if o.Handler == nil {
		o.Handler = refuseAll{}
	}
	return o
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Code classifies an error across the wire. Numbers are append-only.
type Code uint32

const (
	CodeOK            Code = 0
	CodeInternal      Code = 1
	CodeUnknownMethod Code = 2
	CodeInvalid       Code = 3
	CodeOverloaded    Code = 4 // definite: nothing was done; retry later
	CodeDeadline      Code = 5
	CodeDraining      Code = 6 // definite: nothing was done; use another connection
	CodeDenied        Code = 7
	CodeExists        Code = 8
)

// Error is an answer that is not a result. Parts that use rpc may define codes of their own from 1000 on.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("rpc code %d: %s", e.Code, e.Message) }

var (
	// ErrClosed is what a connection that was closed on purpose answers.
	ErrClosed = errors.New("connection closed")
	// ErrUnknownStream is returned by ServeStream for a name that it does not serve, and by OpenStream on the other end.
	ErrUnknownStream = errors.New("unknown stream")
	// ErrTooLarge is a body beyond the limit.
	ErrTooLarge = errors.New("message too large")
)

type refuseAll struct{}

func (refuseAll) ServeRequest(context.Context, *Conn, uint32, []byte) ([]byte, error) {
	return nil, &Error{CodeUnknownMethod, "this end serves no requests"}
}
func (refuseAll) ServeOneway(*Conn, uint32, []byte)          {}
func (refuseAll) ServeStream(context.Context, *Stream) error { return ErrUnknownStream }
