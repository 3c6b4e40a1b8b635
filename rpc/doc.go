// Package rpc carries requests, one-way messages and two-way byte streams over one connection between two machines.
//
// It knows no service. Either end may call, send and open streams. A connection begins with a hello in each direction,
// which settles the version and tells who the peer is; with mutual TLS the name comes from the certificate and from
// nothing else.
//
// # Invariants
//
//   - A frame's header has a checksum of its own, so a damaged length is caught before it is trusted.
//   - Everything is bounded: the body of a frame, bytes waiting to be sent, requests being served, one-way messages
//     waiting for their handler, open streams, and bytes of a stream that nobody has read (credit).
//   - The reader never waits: not for a handler, not for room to send, not for memory. A peer that goes beyond what it
//     was granted loses the connection; a request beyond the limit is refused.
//   - A handler's context ends when the caller gives up, when its deadline passes, or with the connection.
//
// # Deliberately absent
//
// Reconnection and retry (their owners know what may be repeated), encoding of bodies, service discovery. This is version
// 0 of the wire form: both ends are built together and an unknown version is refused.
//
// # Where to start
//
// Conn in conn.go; the wire form is in frame.go.
package rpc
