package server_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/rpc"
)

// TestStrangersTakeNoTargetsPlace holds as many connections without a certificate as there may be targets, and more.
func TestStrangersTakeNoTargetsPlace(t *testing.T) {
	c := newCluster(t)
	c.options.MaxTargets = 2
	c.options.JoinTimeout = time.Hour // none leaves while the test dials
	c.start()
	dir := c.join("host/h-1")
	stranger := func() *rpc.Conn {
		nc, err := tls.Dial("tcp", c.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{enroll.ALPN}})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range 64 + 1 { // one was refused perhaps: the connection that joined h-1 counts until its end has arrived
		stranger()
	}
	select {
	case <-stranger().Done():
	case <-time.After(patience):
		t.Error("there is no bound on connections without a certificate")
	}
	a := c.agent(dir, nil)
	eventually(t, "a target connected beside the strangers", func() bool { return a.Status().Connected })
}

func TestStrangersDoNotStay(t *testing.T) {
	c := newCluster(t)
	c.options.JoinTimeout = time.Millisecond
	c.start()
	nc, err := tls.Dial("tcp", c.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{enroll.ALPN}})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
	if err != nil {
		return // was closed before its hello had arrived
	}
	select {
	case <-conn.Done():
	case <-time.After(patience):
		t.Error("a connection without a certificate may stay")
	}
}

// TestSilentConnectionsDelayNoTarget: who opens connections and says nothing takes a part of the places only, and not for
// long.
func TestSilentConnectionsDelayNoTarget(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs 127.0.0.2, which only Linux answers at without being told to")
	}
	c := newCluster(t)
	c.options.HandshakeTimeout = 10 * patience // only the bound for one address can help
	c.start()
	dir := c.join("host/h-1")
	silent := func(t *testing.T) net.Conn {
		nc, err := net.Dial("tcp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return nc
	}
	for range 200 {
		silent(t)
	}
	last := silent(t)
	_ = last.SetReadDeadline(time.Now().Add(patience))
	if _, err := last.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("there is no bound on the handshakes of one address")
	}
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	nc, err := tls.DialWithDialer(from, "tcp", c.addr, id.TLS())
	if err != nil {
		t.Fatalf("a target beside silent connections: %v", err)
	}
	conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
	if err != nil {
		t.Fatalf("a target beside silent connections: %v", err)
	}
	conn.Close()
}

func TestHandshakeEnds(t *testing.T) {
	c := newCluster(t)
	c.options.HandshakeTimeout = time.Millisecond
	c.start()
	nc, err := net.Dial("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if _, err := nc.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection may say nothing for ever")
	}
}

// TestTokenComesBeforeSignature: whoever has no token is told that, whatever else is wrong with the request, and makes the
// server sign nothing.
func TestTokenComesBeforeSignature(t *testing.T) {
	c := newCluster(t)
	c.start()
	ask := func(token string) *rpc.Error {
		t.Helper()
		nc, err := tls.Dial("tcp", c.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{enroll.ALPN}})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body, err := cbor.Marshal(enroll.JoinRequest{Token: token, Target: "host/h-1", CSR: []byte("no request")})
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Call(t.Context(), enroll.MethodJoin, body)
		var refusal *rpc.Error
		if !errors.As(err, &refusal) {
			t.Fatalf("a bad join request: %v", err)
		}
		return refusal
	}
	if r := ask("nbj-unknown"); r.Code != rpc.CodeDenied {
		t.Errorf("unknown token and no certificate request: %v", r)
	}
	token := c.token("host/")
	if r := ask(token); r.Code != rpc.CodeInvalid {
		t.Errorf("good token and no certificate request: %v", r)
	}
	if err := enroll.Join(t.Context(), c.addr, token, c.authority.Fingerprint(), filepath.Join(t.TempDir(), "identity"), "host/h-1"); err != nil {
		t.Errorf("a bad request used the token up: %v", err)
	}
}
