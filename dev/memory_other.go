//go:build !linux

package dev

// availableMemoryMi is not asked for elsewhere: only Linux runs real hosts.
func availableMemoryMi() int { return reservedMemoryMi }
