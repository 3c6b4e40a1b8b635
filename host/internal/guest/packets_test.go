package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// faulty fails its first reads, and afterwards gives one datagram.
type faulty struct {
	net.PacketConn
	faults  int
	written chan string
}

func (f *faulty) ReadFrom(p []byte) (int, net.Addr, error) {
	if f.faults > 0 {
		f.faults--
		return 0, nil, errors.New("no buffer space available")
	}
	if f.faults == 0 {
		f.faults--
		return copy(p, "hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:68")), nil
	}
	return 0, nil, net.ErrClosed
}

func (f *faulty) WriteTo(p []byte, to net.Addr) (int, error) {
	f.written <- fmt.Sprintf("%s to %s", p, to)
	return len(p), nil
}

func (f *faulty) Close() error { return nil }

// fixed is a clock that stands still.
type fixed struct{ time.Time }

func (f fixed) Now() time.Time { return f.Time }

// TestServicesOutliveReadErrors holds that a socket that cannot be read for a while ends no service.
func TestServicesOutliveReadErrors(t *testing.T) {
	f := &faulty{faults: 3, written: make(chan string, 1)}
	ServePackets(t.Context(), f, fixed{time.Now()}, Rate{1, 1}, 100, func(source netip.Addr, request []byte) []byte {
		return fmt.Appendf(nil, "%s from %s", request, source)
	})
	select {
	case got := <-f.written:
		if got != "hello from 10.0.0.1 to 10.0.0.1:68" {
			t.Errorf("answered %q", got)
		}
	default:
		t.Error("the request after the errors has no answer")
	}
}

// TestServePacketsEnds: a service that waits after an error ends with its context.
func TestServePacketsEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ServePackets(ctx, &faulty{faults: 1 << 30}, fixed{time.Now()}, Rate{1, 1}, 100, nil)
}

func TestRateLimit(t *testing.T) {
	l, now := newRateLimit(Rate{PerSecond: 2, Burst: 5}), time.Unix(1000, 0)
	noisy, quiet := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	allowed := func(source netip.Addr, tries int) (n int) {
		for range tries {
			if l.allow(source, now) {
				n++
			}
		}
		return n
	}
	if n := allowed(noisy, 1000); n != 5 {
		t.Errorf("%d at once, want 5", n)
	}
	if n := allowed(quiet, 3); n != 3 {
		t.Errorf("a noisy guest took %d of 3 answers of another", 3-n)
	}
	now = now.Add(2 * time.Second)
	if n := allowed(noisy, 1000); n != 4 {
		t.Errorf("%d after 2 s, want 4", n)
	}
	now = now.Add(-time.Hour) // the clock was set back
	if n := allowed(noisy, 1000); n != 0 {
		t.Errorf("%d after the clock went back, want 0", n)
	}
	source := netip.MustParseAddr("10.1.0.0")
	for range 3 * maxBuckets {
		l.allow(source, now)
		if source = source.Next(); len(l.buckets) > maxBuckets {
			t.Fatalf("%d sources are remembered", len(l.buckets))
		}
	}
}
