// Package ntp gives guests the host's time on 169.254.169.123.
//
// It is an SNTP server (RFC 4330, a subset of RFC 5905) without state: each answer carries the host's clock. The host is
// expected to keep its own clock; stratum 4 says that this one is derived.
//
// Deliberately absent: authentication, leap-second smearing, symmetric modes.
package ntp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nimbrel/nimbrel/internal/env"
)

const (
	packetBytes = 48
	modeClient  = 3
	modeServer  = 4
	stratum     = 4
	// epochOffset is the seconds from NTP's epoch (1900) to Unix's (1970).
	epochOffset = 2_208_988_800
)

// Serve answers on c until ctx ends.
func Serve(ctx context.Context, c net.PacketConn, clock env.Clock) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		received := clock.Now()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve NTP: %w", err)
		}
		reply := answer(buf[:n], received, clock.Now())
		if reply == nil {
			continue
		}
		if _, err := c.WriteTo(reply, from); err != nil {
			slog.Warn("send NTP reply", "peer", from.String(), "err", err)
		}
	}
}

// answer returns the reply to a client's request of versions 1 to 4, or nil.
func answer(request []byte, received, sent time.Time) []byte {
	if len(request) < packetBytes {
		return nil
	}
	version, mode := request[0]>>3&7, request[0]&7
	if version < 1 || version > 4 || mode != modeClient {
		return nil
	}
	reply := make([]byte, packetBytes)
	reply[0] = version<<3 | modeServer
	reply[1] = stratum
	reply[2] = request[2]                                   // poll interval, as asked
	reply[3] = 0xec                                         // precision 2^-20 s
	binary.BigEndian.PutUint32(reply[8:], 1<<6)             // root dispersion, about 1 ms
	copy(reply[12:], "HOST")                                // reference
	binary.BigEndian.PutUint64(reply[16:], stamp(received)) // last set
	copy(reply[24:32], request[40:48])                      // the client's own transmit time
	binary.BigEndian.PutUint64(reply[32:], stamp(received))
	binary.BigEndian.PutUint64(reply[40:], stamp(sent))
	return reply
}

// stamp is a time in NTP's 32.32 fixed point of the present era.
func stamp(t time.Time) uint64 {
	seconds := uint64(t.Unix()+epochOffset) << 32
	return seconds | uint64(t.Nanosecond())<<32/1_000_000_000
}
