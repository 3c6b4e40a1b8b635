// Package enroll gives a target its identity: a client certificate from the cluster's own authority, for a one-time join
// token.
//
// The server's side of it is Authority: an ECDSA P-256 authority in a directory of its own. The target's side is Join,
// once, and Identity, for every connection after. What a token allows is decided by the server from its rows
// (dispatchrows.Redeem); this package reaches no store, since the host agent links it.
//
// # Invariants
//
//   - A target's private key never leaves its directory. Directories are 0700, keys 0600.
//   - A joining target trusts exactly the authority whose fingerprint it was given, before it sends its token.
//   - A certificate names one target, as common name and as URI, and is good for clients only.
//
// # Deliberately absent
//
// Revocation lists: the server compares the key with the target's identity row at each handshake. Bearer tokens after the
// join.
package enroll
