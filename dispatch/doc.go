// Package dispatch is the contract of the host link: desired state out to hosts and edges, actual state back.
//
// A document is what one reader must know; it is made of sections, a section is a map from key to item, and payloads are
// opaque here. A target (a host or an edge) has a document of its own, with the target's name, and is subscribed to the
// documents that the items of its own document name as topics: one change to a shared object is then one row, however
// many targets read it.
//
// # Invariants
//
//   - Each (document, section) has a sequence number, raised by the transaction that changes an item, and each item
//     carries as its revision the sequence of its last change. Both come from the store's commit, from nobody else.
//   - The receiver compares versions at the write. An item never goes back to an older revision under one history.
//   - At most one unacknowledged delta is on its way per section; it carries the latest state only, never a backlog.
//   - A receiver keeps the last good version of a section that it cannot take, and says why.
//   - An item that has topics is shown to its reader only once those documents are at least as new as the item's own
//     commit. Until then the reader keeps seeing the item's older version.
//   - Sender and receiver at the same sequence have the same Checksum, or there is a defect: it is reported and the
//     section is sent again in full.
//   - Absence means "end it" only in a section that is known. What another history does not mention becomes an orphan,
//     to be set aside, never deleted by guess.
//
// # Deliberately absent
//
// Commands: desired state has no verbs. Knowledge of payloads: package host owns them. Persistent heartbeats: they end in
// memory, and only transitions leave. Topics of topics: only the items of a target's own document subscribe it.
//
// # Where to start
//
// session is the pure core of both ends; dispatchrows writes documents inside store transactions; server pushes them;
// client keeps them on a host's disk; enroll gives a host its certificate.
package dispatch
