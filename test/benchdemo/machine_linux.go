package main

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// onDisk refuses directories whose syncs cost nothing: figures from there would promise what no disk keeps.
func onDisk(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("look at file system of %s: %w", dir, err)
	}
	if s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is in memory: give --dir a directory on a disk", dir)
	}
	return nil
}

func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// sinceBoot is the clock that process start times are on.
func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()), nil
}

// group puts a command into a process group of its own, so that a person's ^C reaches it only through this program, and
// signalGroup reaches all of it.
func group() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func signalGroup(pid int, s syscall.Signal) error { return unix.Kill(-pid, s) }
