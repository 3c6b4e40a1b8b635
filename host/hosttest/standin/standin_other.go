//go:build !linux

package standin

// Main does nothing: QEMU's driver, which looks for these processes, is for Linux.
func Main() {}
