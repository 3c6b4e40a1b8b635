// Package server is the control plane's end of the host link: it follows the store's documents, holds a session with each
// target, and pushes what each one lacks.
//
// # Invariants
//
//   - The documents in memory stand at one store version; whole transactions go in at once.
//   - A target has one session. A second one with the same identity is refused while the first answers.
//   - Calls of the observer about one target come one at a time.
//   - A stream that a target opens is served beside its session or not at all, and only so many at once.
//   - Heartbeats end here: only their absence, and what they disagree about, leaves.
//
// # Locks, in this order
//
// target.mu (a session's core) before Server.docs (the library) before Server.mu (targets, interest). target.calls
// serialises the observer and is held with none of them.
//
// # Deliberately absent
//
// Admission before TLS and relays for a rack. Persistent marks: they come again with each session.
//
// Start with New in server.go; one session is in link.go, the store's side in follow.go,
// streams in both directions in streams.go.
package server
