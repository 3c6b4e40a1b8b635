package awsjson

import (
	"errors"
	"fmt"
)

// RetryClass tells a caller what to do with a request that failed.
type RetryClass string

// The classes. The text is on the wire: append only.
const (
	Never RetryClass = "never"   // the same request will fail again
	Later RetryClass = "later"   // nothing was done; send it again after a pause
	Ask   RetryClass = "unknown" // it may have been done: look before sending it again
)

// Codes that every service has. A model gives them the same status and class.
const (
	CodeInvalidInput     = "InvalidInput"
	CodeUnknownOperation = "UnknownOperation"
	CodeTooLarge         = "TooLarge"
	CodeInternal         = "Internal"
)

// Error is a failure that the other side may see.
type Error struct {
	Code        string     `json:"__type"`
	Message     string     `json:"message"`
	Retry       RetryClass `json:"retry"`
	OperationID string     `json:"operationId,omitempty"` // of the operation that failed or is in the way, if any
	Status      int        `json:"-"`                     // HTTP status
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf makes an error; generated constructors call it with what the model says of the code.
func Errorf(code string, status int, retry RetryClass, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Retry: retry, Status: status}
}

// CodeOf returns the code of an error that crossed the wire or will, empty for any other.
func CodeOf(err error) string {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func invalid(format string, args ...any) *Error {
	return Errorf(CodeInvalidInput, 400, Never, format, args...)
}
