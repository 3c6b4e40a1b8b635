//go:build unix

package dev

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock keeps two runs of Up and Down from working on the same cloud. The kernel drops the lock with the process.
func (c *Cloud) lock() (unlock func(), err error) {
	path := filepath.Join(c.Dir, "dev.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another `nimbrel dev` is at work in %s: wait for it", c.Dir)
	}
	return func() { _ = f.Close() }, nil
}
