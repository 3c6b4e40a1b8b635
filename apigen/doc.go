// Package apigen is the service generator: an API model in, Go source out.
//
// Two kinds of model are read. EC2 reads the EC2 service model (shapes and names only, no documentation) and writes a
// codec of the EC2 query protocol for a list of actions: structures, strict form decoders, XML encoders, one interface and
// a dispatch table. JSON reads a Smithy 2.0 model in its JSON form and writes an awsJson1.1 server and client.
//
// Invariants: the same input gives the same bytes; the output is gofmt'd and complete, never edited by hand; a defect in a
// model is reported with the file, the shape and what to do.
//
// Deliberately absent: anything outside the standard library, and any text of the EC2 model other than the names that
// travel on the wire. Start reading at EC2 and JSON; the command is cmd/apigen.
package apigen
