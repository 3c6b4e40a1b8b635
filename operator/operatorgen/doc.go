// Package operatorgen is the operators' API, generated from operator/model/operator.json: types, the API interface, the
// server's dispatch and a client that is itself an API.
//
// Conventions: times are milliseconds since 1970; an optional number, boolean or structure is a pointer, an optional text is
// empty when absent; every list has a bound. To add an operation, edit the model and run go generate ./operator/...
//
// Deliberately absent: behaviour, and console and ssh streams, which are upgraded HTTP connections of their own.
package operatorgen

//go:generate go run ../../apigen/cmd/apigen json -model ../model/operator.json -import github.com/nimbrel/nimbrel/operator/operatorgen -out .
