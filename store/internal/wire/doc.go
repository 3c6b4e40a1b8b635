// Package wire is the form in which store/client and store/server speak: methods, messages and error codes.
//
// Messages are CBOR maps with integer keys, as everywhere between Nimbrel's own processes. Version numbers the whole; a
// server refuses a client of another one. What does not fit a request goes over a stream, as messages with their length
// before them.
//
// Invariants: no decoder allocates more than a fixed multiple of a bounded message, and none panics. What is not definite
// is never encoded as definite: CodeUnknown is a code of its own.
//
// Pure: no connection, no goroutine. Start with Hello and Decode.
package wire
