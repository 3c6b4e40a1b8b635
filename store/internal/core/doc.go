// Package core is the store's commit pipeline as a pure step machine.
//
// Core evaluates commits on the newest state, durable or not, and gives batches to append to a log. Outbox holds what was
// answered until the log says that the batch is durable, or lost. In go commits, ticks of the clock and what became of
// batches; out come batches and answers. Whoever drives it owns the clock, the disk and the goroutines: store/embed does,
// and the test in this package drives it through every order of a small world.
//
// Invariants: no answer of any kind leaves before the state that it saw is durable; a batch applies only on the state
// that it was evaluated on; a commit is applied at most once, through loss and restart; versions rise by one a commit.
//
// Core and Outbox are two types and share nothing but batches, so that one goroutine evaluates the next batch while
// another releases the last. Neither is safe for concurrent use by itself.
//
// Deliberately absent: clock, goroutine, disk, replication, and the meaning of operations, which store/internal/transactor
// has. Start with Core.Append.
package core
