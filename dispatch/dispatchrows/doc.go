// Package dispatchrows owns the host link's rows: desired documents, epochs, identities and join tokens.
//
// Other parts call Put and Delete inside their own transactions; the document's sequence is raised by a guard of that
// transaction, so two writers never wait for each other, and the host may be chosen by the same commit (ForLabel).
//
// # Rows
//
// All keys begin with "dispatch". A document's name is split at its first slash into kind and id, so that the id can be a
// slot.
//
//	seq      kind id section       integer: sequence of the section
//	item     kind id section key   map: 1 revision, 2 payload, 3 topics, 4 deleted
//	floor    kind id section       integer: tombstones up to here may have been collected
//	epoch    kind id               integer: how often the target's epoch was raised
//	identity target                map: 1 SHA-256 of the public key
//	token    hash                  map: 1 expiry in ms, 2 target, 3 key it was used for
//
// # Deliberately absent
//
// Knowledge of payloads, and marks of targets: what a host has applied lives in the server's memory and comes again with
// each hello.
//
// Start with Put in items.go.
package dispatchrows
