// Package mvcc keeps the store's state in Pebble: versioned rows, the log of what each version changed, and the records
// of answers.
//
// Keys (format 1): a space byte, the content, a zero byte; rows then have a suffix of 9 bytes, the complement of the
// version big-endian and the suffix's length, so that the newest version of a row comes first. The comparer splits
// before the suffix. Spaces: 'm' the format and the floor, 'r' rows, 'l' the log by version, 'i' records by session and
// sequence. A row's value starts with its kind byte; kind 0 is a deletion.
//
// Invariants: the log names every row that a version above the floor wrote; versions at or below the floor keep only
// what a reader at the floor sees; a batch is on disk whole or not at all.
//
// Deliberately absent: the meaning of operations (package transactor), queues and waiting (package embed). Start with
// Open and Batch.
package mvcc
