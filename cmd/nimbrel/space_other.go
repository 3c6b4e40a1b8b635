//go:build !linux

package main

// freeBytes is not known here: servers for more than trials run on Linux.
func freeBytes(string) (free uint64, known bool) { return 0, false }
