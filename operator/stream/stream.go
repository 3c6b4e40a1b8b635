// Package stream carries byte streams to guests over the operators' endpoint: a TCP connection to a guest's port, or its
// serial console.
//
// A stream begins as an HTTP/1.1 request with an Upgrade header; after the 101 answer both ends speak bytes. The server
// end dials through the host's agent, outside the security groups; every stream is logged with who asked for what.
//
// Deliberately absent: any meaning of the bytes.
package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Path is where streams are served; the kind follows.
const Path = "/stream/"

const (
	protocol        = "nimbrel-stream"
	messageBytesMax = 4 << 10
	handshakeLimit  = 60 * time.Second
)

// Kind is what a stream leads to.
type Kind string

// The kinds.
const (
	Dial    Kind = "dial"    // TCP to a port of the guest
	Console Kind = "console" // serial console, read only
)

// Request names the far end of a stream.
type Request struct {
	Kind      Kind
	Instance  ids.Instance
	Port      uint16 // Dial
	TailBytes int    // Console: how much of the past
	Follow    bool   // Console: go on until closed
}

// Opener opens the far end of a stream.
type Opener func(ctx context.Context, r Request) (io.ReadWriteCloser, error)

// Open asks the server behind dial for a stream. The error text is the server's.
func Open(ctx context.Context, dial func(context.Context) (net.Conn, error), r Request) (net.Conn, error) {
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(handshakeLimit))
	request, err := http.NewRequest(http.MethodGet, "http://operator"+Path+string(r.Kind)+"?"+r.query().Encode(), nil)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", protocol)
	if err := request.Write(c); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for stream: %w", err), c.Close())
	}
	buffered := bufio.NewReader(c)
	response, err := http.ReadResponse(buffered, request)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open stream: %w", err), c.Close())
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(response.Body, messageBytesMax))
		return nil, errors.Join(errors.New(strings.TrimSpace(string(text))), c.Close())
	}
	_ = c.SetDeadline(time.Time{})
	return &bufferedConn{Conn: c, reader: buffered}, nil
}

func (r Request) query() url.Values {
	return url.Values{
		"instance":  {string(r.Instance)},
		"port":      {strconv.Itoa(int(r.Port))},
		"tailBytes": {strconv.Itoa(r.TailBytes)},
		"follow":    {strconv.FormatBool(r.Follow)},
	}
}

func parse(r *http.Request) (Request, error) {
	q := r.URL.Query()
	instance, err := ids.Parse[ids.Instance](q.Get("instance"))
	if err != nil {
		return Request{}, err
	}
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err != nil {
		return Request{}, fmt.Errorf("port %q: want 0 to 65535", q.Get("port"))
	}
	tail, err := strconv.ParseUint(q.Get("tailBytes"), 10, 31)
	if err != nil {
		return Request{}, fmt.Errorf("tailBytes %q: want a number", q.Get("tailBytes"))
	}
	request := Request{
		Kind: Kind(strings.TrimPrefix(r.URL.Path, Path)), Instance: instance,
		Port: uint16(port), TailBytes: int(tail), Follow: q.Get("follow") == "true",
	}
	if request.Kind != Dial && request.Kind != Console {
		return Request{}, fmt.Errorf("stream kind %q: want %s or %s", request.Kind, Dial, Console)
	}
	if request.Kind == Dial && port == 0 {
		return Request{}, errors.New("port 0: want 1 to 65535")
	}
	return request, nil
}

// Handler serves streams that open makes. audit is called once for each stream before it is opened.
func Handler(open Opener, audit func(*http.Request, Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := parse(r)
		if err == nil && r.Header.Get("Upgrade") != protocol {
			err = fmt.Errorf("want the header Upgrade: %s", protocol)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		audit(r, request)
		far, err := open(r.Context(), request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer far.Close()
		serve(w, far)
	})
}

// serve answers 101 and copies both ways until either end closes.
func serve(w http.ResponseWriter, far io.ReadWriteCloser) {
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer near.Close()
	_ = near.SetDeadline(time.Time{})
	if _, err := fmt.Fprintf(near, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol); err != nil {
		return
	}
	Join(&bufferedConn{Conn: near, reader: buffered.Reader}, far)
}

// Join copies between two streams. An end of input on one side is passed on as a half close where the other side can,
// so that a request's answer still arrives; Join returns when both directions have ended, and closes both.
func Join(a, b io.ReadWriteCloser) {
	done := make(chan struct{}, 2)
	pass := func(to, from io.ReadWriteCloser) {
		_, err := io.Copy(to, from)
		half, ok := to.(interface{ CloseWrite() error })
		if err != nil || !ok || half.CloseWrite() != nil {
			_ = to.Close()
			_ = from.Close()
		}
		done <- struct{}{}
	}
	go pass(a, b)
	go pass(b, a)
	<-done
	<-done
	_ = a.Close()
	_ = b.Close()
}

// bufferedConn reads what the HTTP reader had taken from the connection first.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// CloseWrite passes a half close to the connection below.
func (c *bufferedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
