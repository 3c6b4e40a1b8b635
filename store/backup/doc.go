// Package backup makes, verifies and restores backups of a store.
//
// A backup is a directory: the store's files as they were at one version, under "store", and "manifest.json", which names
// that version, its history and format, and each file's length and SHA-256, and carries a digest of itself. Source says
// where the files come from: a directory that nobody has open, a running engine's checkpoint, or a server.
//
// Invariants: a directory under the name asked for is whole and synced, or it does not exist; what is under way has a name
// that begins with a dot and ends with "partial-" and a number, and no manifest. Nothing is written over. A restored store
// has a history of its own, so that no feed, session or host takes its versions for those of the lost past.
//
// Deliberately absent: secrets and files beside the store (their owners back them up), increments, compression, and
// places that are not directories. Start with Write, Verify and Restore.
package backup
