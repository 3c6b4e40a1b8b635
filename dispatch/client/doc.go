// Package client is a target's end of the host link: it keeps the desired documents on disk, shows them to the target's
// own reconcilers, and carries back what they did and what is.
//
// # Invariants
//
//   - What Desired shows is on disk: an agent that restarts, with no server at all, shows the same or newer.
//   - A section file that does not check out is set aside and fetched again in full; until then the section is unknown,
//     and absence in an unknown section means nothing.
//   - A working connection is never dropped because one thing on it was slow.
//
// # Deliberately absent
//
// The choice of a server (Options.Dial), identity (dispatch/enroll), knowledge of payloads. The store is out of reach.
//
// Start with New in client.go.
package client
