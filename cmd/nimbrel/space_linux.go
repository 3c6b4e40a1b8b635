package main

import "golang.org/x/sys/unix"

// freeBytes is what is left for files below dir.
func freeBytes(dir string) (free uint64, known bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, false
	}
	return fs.Bavail * uint64(fs.Bsize), true
}
