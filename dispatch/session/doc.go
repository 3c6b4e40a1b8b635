// Package session is the pure core of both ends of the host link: messages in, messages out.
//
// Server is one session as the server sees it, reading documents from a Library that all sessions share. Client is a
// target's whole memory: its sections, what it is waiting for, and what it reports. Source and Sink are the two sides of
// one section; both directions use them, so that what a target reports is mirrored by the same code that brings it its
// desired state.
//
// # Invariants
//
// Those of package dispatch, and: nothing that a Client shows or acknowledges as durable was not handed out to be made
// durable first (Output.Stage, then Commit).
//
// # Deliberately absent
//
// Clock, goroutine, socket, disk, lock. The callers (dispatch/server, dispatch/client) own those; each type here belongs
// to one goroutine at a time.
//
// # Where to start
//
// message.go says what travels; source.go and sink.go how a section is carried; server.go and client.go who answers what.
package session
