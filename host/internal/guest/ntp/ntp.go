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
	"net"
	"net/netip"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/env"
)

const (
	packetBytes = 48
	// requestBytesMax bounds a request that is read: a client may add extensions, which are ignored.
	requestBytesMax = 512
	modeClient      = 3
	modeServer      = 4
	stratum         = 4
	// epochOffset is the seconds from NTP's epoch (1900) to Unix's (1970).
	epochOffset = 2_208_988_800
)

// rate is of one guest's requests. Clients ask once in minutes, and a few times at once when they start.
var rate = guest.Rate{PerSecond: 10, Burst: 50}

// Serve answers on c until ctx ends.
func Serve(ctx context.Context, c net.PacketConn, clock env.Clock) {
	guest.ServePackets(ctx, c, clock, rate, requestBytesMax, func(_ netip.Addr, request []byte) []byte {
		return answer(request, clock.Now(), clock.Now())
	})
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
