//go:build !linux

package standin

import "io"

// Serve does nothing: QEMU's driver, which looks for these processes, is for Linux.
func Serve([]string, io.Writer) (served bool, err error) { return false, nil }
