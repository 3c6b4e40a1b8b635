package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is the clock that process start times are on.
func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()), nil
}
