//go:build !linux

package bench

import "os"

// refuseMemory refuses nothing: no other system has its temporary files in memory by default.
func refuseMemory(string) error { return nil }

// SyncData makes what was written to a file durable.
func SyncData(f *os.File) error { return f.Sync() }
