package dev

import (
	"os"
	"strconv"
	"strings"
)

// availableMemoryMi is the kernel's estimate of what can be used without swapping, in MiB.
func availableMemoryMi() int {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return reservedMemoryMi
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			if kib, err := strconv.Atoi(strings.Fields(rest)[0]); err == nil {
				return kib >> 10
			}
		}
	}
	return reservedMemoryMi
}
