package guest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/nimbrel/nimbrel/internal/env"
)

// Rate bounds how often one guest is answered: Burst requests at once, and PerSecond in the long run. Beyond it requests
// are dropped, as a network may do: the asker asks again. Guests are not trusted, and all of a host's are served by one
// process.
type Rate struct{ PerSecond, Burst float64 }

// Pauses after a socket could not be read, so that a lasting fault costs little.
const (
	readPauseMin = 10 * time.Millisecond
	readPauseMax = 5 * time.Second
)

// ServePackets answers each datagram on c with what answer makes of it, nil for nothing, until ctx ends or c is closed.
// Requests longer than maxBytes are cut. A socket that cannot be read is tried again: no guest may take a service away from
// the others, and no passing fault from all.
func ServePackets(ctx context.Context, c net.PacketConn, clock env.Clock, rate Rate, maxBytes int, answer func(source netip.Addr, request []byte) []byte) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	limit, buf, pause := newRateLimit(rate), make([]byte, maxBytes), readPauseMin
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			slog.Warn("read guests' requests", "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			pause = min(2*pause, readPauseMax)
			continue
		}
		pause = readPauseMin
		peer, err := netip.ParseAddrPort(from.String())
		if err != nil || !limit.allow(peer.Addr().Unmap(), clock.Now()) {
			continue
		}
		reply := answer(peer.Addr().Unmap(), buf[:n])
		if reply == nil {
			continue
		}
		if _, err := c.WriteTo(reply, from); err != nil && ctx.Err() == nil {
			slog.Warn("answer a guest", "peer", peer, "err", err)
		}
	}
}

// maxBuckets bounds the sources that are remembered; a host has fewer ports.
const maxBuckets = 8192

// rateLimit is a token bucket a source. It is not safe for concurrent use.
type rateLimit struct {
	Rate
	buckets map[netip.Addr]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newRateLimit(r Rate) *rateLimit { return &rateLimit{Rate: r, buckets: map[netip.Addr]bucket{}} }

func (l *rateLimit) allow(source netip.Addr, now time.Time) bool {
	b, known := l.buckets[source]
	if !known {
		if len(l.buckets) >= maxBuckets {
			l.forget(now)
		}
		b = bucket{l.Burst, now}
	}
	b = bucket{l.filled(b, now), now}
	allowed := b.tokens >= 1
	if allowed {
		b.tokens--
	}
	l.buckets[source] = b
	return allowed
}

func (l *rateLimit) filled(b bucket, now time.Time) float64 {
	return min(l.Burst, b.tokens+max(0, now.Sub(b.at).Seconds())*l.PerSecond)
}

// forget makes room: full buckets say nothing, and when there are none everybody begins anew.
func (l *rateLimit) forget(now time.Time) {
	for source, b := range l.buckets {
		if l.filled(b, now) >= l.Burst {
			delete(l.buckets, source)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}
