// Package awsjson is the run-time half of generated awsJson1.1 services: the HTTP server and client that dispatch by the
// X-Amz-Target header, strict JSON, constraint checks, and the error that crosses the wire with its retry class.
//
// Invariants: bodies are bounded in both directions; a request member that the model does not have is refused by name; an
// error without a wire form and a panic become Internal with a request id, and their text goes to the log only; an answer
// that breaks its own model is a defect of the server and is never sent.
//
// Deliberately absent: authentication (the listener decides who may connect), operations and shapes (generated). Timestamps
// do not exist: times are milliseconds since 1970 in members whose names end in AtMs. Start reading at NewHandler and Client.
package awsjson
