package guest_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/guest"
)

// patience bounds what should take no time.
const patience = 30 * time.Second

// listenLimited returns a limited listener on loopback, and what it accepts.
func listenLimited(t *testing.T, perGuest, total int) (address string, accepted <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	limited, conns := guest.Limit(l, perGuest, total), make(chan net.Conn, 16)
	go func() {
		for {
			c, err := limited.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return l.Addr().String(), conns
}

// from connects from one of loopback's addresses.
func from(t *testing.T, source, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := d.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func isClosed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	var timeout net.Error
	if _, err := io.ReadFull(c, make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a connection beyond the bound: %v, want it closed", err)
	}
}

func wait(t *testing.T, accepted <-chan net.Conn) net.Conn {
	t.Helper()
	select {
	case c := <-accepted:
		return c
	case <-time.After(patience):
		t.Fatal("not accepted")
		return nil
	}
}

func TestLimitHoldsOneGuestBack(t *testing.T) {
	address, accepted := listenLimited(t, 2, 100)
	from(t, "127.0.0.1", address)
	from(t, "127.0.0.1", address)
	first := wait(t, accepted)
	wait(t, accepted)
	isClosed(t, from(t, "127.0.0.1", address))
	from(t, "127.0.0.2", address)
	if c := wait(t, accepted); c.RemoteAddr().(*net.TCPAddr).IP.String() != "127.0.0.2" {
		t.Errorf("accepted %v, want the other guest", c.RemoteAddr())
	}
	first.Close()
	first.Close() // counts once
	from(t, "127.0.0.1", address)
	wait(t, accepted)
	isClosed(t, from(t, "127.0.0.1", address))
}

func TestLimitHoldsAllBack(t *testing.T) {
	address, accepted := listenLimited(t, 2, 3)
	for _, source := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		from(t, source, address)
		wait(t, accepted)
	}
	isClosed(t, from(t, "127.0.0.4", address))
}
