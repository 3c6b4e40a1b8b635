// Package ec2gen is the generated codec of the EC2 query protocol, version 2016-11-15: structures, strict form decoders,
// XML encoders, the API interface and the dispatch table, for the actions listed in ec2/actions.txt.
//
// Conventions of the structures: an optional scalar or structure is a pointer, nil when absent (new(true), new("text")
// make one); a list is nil when absent from a request and empty when the client sent an empty one; in an answer every list
// is written, also when nil, because clients break on an absent set. Instances are described as a sequence: it is run once,
// while the answer is written, and an element is no longer looked at when the next one is asked for. An answer's timestamps
// are UTC to the millisecond.
//
// Invariants: a decoder refuses, as an *errs.Error, every parameter that the model does not have, every value of a wrong
// type, list indexes with gaps, and lists beyond their bound; the files gen_*.go are what apigen writes from the pinned
// model, which a test in apigen checks.
//
// Deliberately absent: behaviour. Start reading at API and Actions.
package ec2gen

//go:generate go run ../../apigen/cmd/apigen ec2 -tools ../../tools -actions ../actions.txt -import github.com/nimbrel/nimbrel/ec2/ec2gen -out .
