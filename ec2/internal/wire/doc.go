// Package wire is the run-time half of the generated EC2 codec: it turns form parameters into a tree that generated
// decoders read, and offers the append-style XML writer that generated encoders call. No reflection on either side.
//
// Invariants: every parameter of a request is either read by a decoder or refused by name; the first error wins and is
// always an *errs.Error; memory is bounded by the constants here and by the caller's bound on the body.
//
// Deliberately absent: actions, shapes and HTTP. Start reading at Decode and Append.
package wire
