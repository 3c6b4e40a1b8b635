package bench

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// refuseMemory refuses directories whose syncs cost nothing: figures from there would promise what no disk keeps.
func refuseMemory(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("look at file system of %s: %w", dir, err)
	}
	if s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is in memory: give --dir a directory on a disk", dir)
	}
	return nil
}

// SyncData makes what was written to a file durable, and of its metadata only what reading it back needs.
func SyncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
