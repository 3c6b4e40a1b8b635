package probe

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Values is an answer's content.
type Values map[string]any

// Answer formats the one line that ends a command: "ok {…}" or "fail {"error":"…",…}", after the tag if there was one.
func Answer(tag string, values Values, err error) string {
	word := "ok"
	if err != nil {
		word = "fail"
		if values == nil {
			values = Values{}
		}
		values["error"] = err.Error()
		values["reason"] = reason(err)
	}
	if values == nil {
		values = Values{}
	}
	text, jsonErr := json.Marshal(values)
	if jsonErr != nil {
		word, text = "fail", []byte(`{"error":"answer cannot be encoded","reason":"other"}`)
	}
	line := word + " " + string(text)
	if tag != "" {
		line = "#" + tag + " " + line
	}
	return line
}

// reason classifies an error in one word that scripts can compare: timeout, refused, unreachable, mtu, mismatch, usage
// or other.
func reason(err error) string {
	var usage usageError
	var network net.Error
	switch {
	case errors.As(err, &usage), errors.Is(err, ErrEmpty):
		return "usage"
	case errors.Is(err, errMismatch):
		return "mismatch"
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return "refused"
	case errors.Is(err, unix.EMSGSIZE):
		return "mtu"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EAGAIN),
		errors.As(err, &network) && network.Timeout():
		return "timeout"
	}
	return "other"
}
