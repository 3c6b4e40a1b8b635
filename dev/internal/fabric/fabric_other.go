//go:build !linux

package fabric

import "errors"

// ErrUnsupported is returned on systems without network namespaces.
var ErrUnsupported = errors.New("network namespaces need Linux: use --driver fake")

// Ensure returns ErrUnsupported.
func Ensure(Plan) error { return ErrUnsupported }

// Destroy does nothing: nothing can have been made.
func Destroy(Plan) error { return nil }

// Namespaces returns nothing.
func Namespaces(Plan) []string { return nil }

// Run returns ErrUnsupported.
func Run(string, func() error) error { return ErrUnsupported }

// Unused returns ErrUnsupported.
func Unused(Plan) error { return ErrUnsupported }
