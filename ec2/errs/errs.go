// Package errs is the one table of EC2 error codes and the error type that carries them to a client.
//
// A code that is not in the table cannot be sent: New panics on it, so that a typing error is found by the first test that
// reaches the line and not by a client that branches on the text. Codes are API surface: they are added, never renamed.
//
// The spelling of "not found" and "malformed" differs from one id kind to the next (InvalidVpcID.NotFound but
// InvalidVolume.NotFound); NotFound and Malformed look it up by the id's type.
//
// Deliberately absent: the XML envelope (the query protocol layer writes it) and the mapping from errors of other parts
// to codes (the action handlers own that).
package errs

import (
	"fmt"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Error is an answer that a client sees. Any other error becomes InternalError at the door, and its text stays in the log.
type Error struct {
	Code    string // one of the table's codes
	Message string // for a person; may name ids and parameters of the request, never internals
	Status  int    // HTTP status that the table gives the code
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is reports whether target is an *Error of the same code, so that errors.Is(err, errs.DryRun) holds for every instance.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// New makes an error of a code in the table; the message is formatted as fmt.Sprintf does.
func New(code, format string, args ...any) *Error {
	status, ok := statuses[code]
	assert.That(ok, "error code %s is in the table; add it to ec2/errs/table.go", code)
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Status: status}
}

// Status returns the HTTP status of a code, and whether the table has it.
func Status(code string) (int, bool) {
	status, ok := statuses[code]
	return status, ok
}

// DryRun is what a handler returns once a request with DryRun has passed authorization and validation, before any effect.
var DryRun = New(DryRunOperation, "Request would have succeeded, but DryRun flag is set.")

// notInRegion is how EC2 words what a region lacks. Clients look for these words and go on without: Ansible's modules ask
// every VPC for its ClassicLink.
const notInRegion = "The functionality you requested is not available in this region."

// Unsupported answers an action that the API knows and this cloud does not offer.
func Unsupported(action string) *Error {
	return New(UnsupportedOperation, notInRegion+" The action %s is not offered by this cloud.", action)
}

// Invalid says that a parameter's value cannot be used, and why. The parameter is spelled as the client sent it.
func Invalid(parameter, value, why string) *Error {
	return New(InvalidParameterValue, "Value (%s) for parameter %s is invalid. %s", clip(value), parameter, why)
}

// Missing says that a required parameter is not there.
func Missing(parameter string) *Error {
	return New(MissingParameter, "The request must contain the parameter %s", parameter)
}

// RefusedParameter says by name that a modelled parameter has no meaning in this cloud.
func RefusedParameter(parameter, why string) *Error {
	return New(UnsupportedOperation, "The parameter %s is not supported by this cloud. %s", parameter, why)
}

// Internal is the answer to a defect. The request id is the thread to its log line.
func Internal(requestID string) *Error {
	return New(InternalError, "An internal error has occurred. Give the request id %s to the operator.", requestID)
}

// NotFound says that a well-formed id names nothing that the account can see.
func NotFound[T ids.ID](id T) *Error {
	return New(kindOf(id).notFound, "The %s ID '%s' does not exist", kindOf(id).noun, string(id))
}

// Malformed says that text cannot be an id of kind T.
func Malformed[T ids.ID](text string) *Error {
	var zero T
	kind := kindOf(zero)
	return New(kind.malformed, "Invalid id: \"%s\" (expecting \"%s-...\")", clip(text), zero.Prefix())
}

// ParseID is ids.Parse with the answer that a client of EC2 expects.
func ParseID[T ids.ID](text string) (T, error) {
	id, err := ids.Parse[T](text)
	if err != nil {
		return id, Malformed[T](text)
	}
	return id, nil
}

func kindOf[T ids.ID](id T) kind {
	k, ok := kinds[id.Prefix()]
	assert.That(ok, "id kind %s has codes; add them to ec2/errs/table.go", id.Prefix())
	return k
}

// clip keeps a message short when a client sends a megabyte where an id belongs.
func clip(s string) string {
	const maxEchoBytes = 256
	if len(s) <= maxEchoBytes {
		return s
	}
	return s[:maxEchoBytes] + "..."
}

// Throttled is the shedder's answer: the SDKs back off on it by themselves.
var Throttled = New(RequestLimitExceeded, "Request limit exceeded.")
