//go:build unix

package agent

import "golang.org/x/sys/unix"

// freeGiB is the space left for guests' disks; 0 when it cannot be told.
func freeGiB(dir string) int {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0
	}
	return int(s.Bavail * uint64(s.Bsize) >> 30)
}
