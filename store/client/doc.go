// Package client is a store.Engine whose store is served by store/server elsewhere: give it to store.New.
//
// It keeps one connection and makes it anew, with backoff, when it breaks. What is under way is then sent again where that is
// safe: reads, because their snapshot is held by the server beyond a connection; commits, because their identity is applied at
// most once, and with the same bytes only.
//
// Invariants: an outcome is reported as definite only when it is. After a copy may have reached the server, a refusal that
// speaks of the later copy alone, or another history at the other end, leaves store.ErrUnknown. A snapshot that the server
// no longer holds is ErrSnapshotLost, never another state. A feed goes on after what it last gave, in the same history, or
// says why not.
//
// Deliberately absent: more than one server, and caching. Start with New.
package client
