// Package store is the contract and the client library of a strictly serializable transactional store whose
// transactor arbitrates hot-key operations at commit instead of aborting them.
//
// A transaction reads a snapshot and sends one commit: what it read, and one ordered list of operations. Plain
// operations are Put, Delete and DeleteRange. Guards (Add, Take, Give, InsertIfAbsent, Expect, Min, Max and the
// combinators Group, FirstOf and AtLeast) run at commit, in order, on the latest state. They add nothing to the read
// set, so a transaction made of guards never aborts through contention: it fails only because a guard does not hold,
// and the error says which row and what it held. A guard's result exists only at commit; a Slot stands for it in later
// keys and values.
//
// The idea is old and free: IMS Fast Path field calls (Gawlick and Kinkade, 1985) queue a predicate and a delta and
// arbitrate both at the sync point, and the escrow method (O'Neil, 1986) grants deltas on a quantity without locking
// it. Any operation may address any row; there are no classes of rows.
//
// What it holds to:
//   - A commit is applied whole or not at all, at one Version; versions of one history only increase.
//   - No answer leaves before everything it was computed on is durable: success, conflict and guard failure alike.
//   - A commit identity is applied at most once, however often its bytes are resent.
//   - Transactions are strictly serializable as long as nothing read with SnapshotGet or SnapshotRange feeds a write.
//
// Four outcomes: *ConflictError (a validated read changed; Transact retries by itself), *GuardError (definite),
// *RefusedError (definite, nothing applied) and ErrUnknown (the answer was lost; it may or may not have been applied).
//
// Deliberately absent: transactions across cells, SQL, secondary indexes, time to live, closures that run in the
// transactor, and locks.
//
// This package is pure: no IO, no goroutine. Engines are in store/embed and store/storetest. Start with DB.Transact and
// Tx; keys are built with Key and Prefix, rows with store/row.
package store
