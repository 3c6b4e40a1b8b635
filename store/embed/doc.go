// Package embed is the store inside a process: one directory, one transactor, group commit with fsync.
//
// Commits wait in a bounded queue. One goroutine, the transactor, takes all that wait, evaluates them in order on the
// latest state, and applies their effects as one batch; another waits until batches are on disk and sends the answers,
// in order. While batch k syncs, batch k+1 is evaluated on top of it. No answer, snapshot or feed shows anything before
// it is durable: what was evaluated on a state that did not become durable is never told, conflicts and guard failures
// included.
//
// A failed sync ends the process through Options.Fatal: what the disk holds is unknown then, and only a restart finds
// out. A disk that is nearly full refuses commits before that.
//
// History is kept for a time and up to a size, whichever ends first, but never cut below a leased snapshot. Feeds pin
// nothing.
//
// Deliberately absent: replication and network. Start with Open.
package embed
