// Package transactor is the pure core of the store: it evaluates commits one after the other on the latest state.
//
// In goes a view of the latest state and a commit, out come an answer, the rows to write and the record to keep. The
// order of evaluation is: size and deadline, identity, validated reads, operations in order. It owns the meaning of
// every operation, the limits, and which answers are remembered for how long.
//
// Invariants: a commit's writes are in its answer's version or nowhere; a group that is skipped leaves no trace; the same
// view, sessions, commit, time and version give the same effect.
//
// Deliberately absent: clock, goroutines, disk, durability; an engine owns those. Start with Evaluate.
package transactor
