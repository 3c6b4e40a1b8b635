package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	evKey    = 1
	keyPower = 116
	// eventBytes is struct input_event on 64-bit machines: two longs of time, type, code, value.
	eventBytes = 24
	// graceTime is what processes get between SIGTERM and SIGKILL.
	graceTime = 2 * time.Second
)

// WatchPowerButton calls pressed for each press, on any input device. It needs the modules button and evdev.
func WatchPowerButton(pressed func()) error {
	devices := sortedGlob("/dev/input/event*")
	if len(devices) == 0 {
		return errors.New("watch power button: no input device")
	}
	for _, path := range devices {
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("watch power button: %w", err)
		}
		go func() {
			defer file.Close()
			watchKeys(file, pressed)
		}()
	}
	return nil
}

// watchKeys reads input events until the device goes away.
func watchKeys(events io.Reader, pressed func()) {
	event := make([]byte, eventBytes)
	for {
		if _, err := io.ReadFull(events, event); err != nil {
			return
		}
		le := binary.LittleEndian
		if le.Uint16(event[16:]) == evKey && le.Uint16(event[18:]) == keyPower && le.Uint32(event[20:]) == 1 {
			pressed()
		}
	}
}

// Halt ends all processes, makes the disks clean and powers off, or restarts. It does not return when it works.
func Halt(restart bool) error {
	_ = unix.Kill(-1, unix.SIGTERM) // ESRCH: there is nobody
	waitForOthers(graceTime)
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		// Files held open for writing keep it read-write; the sync has made them safe, the journal the rest.
		unix.Sync()
	}
	command := unix.LINUX_REBOOT_CMD_POWER_OFF
	if restart {
		command = unix.LINUX_REBOOT_CMD_RESTART
	}
	return unix.Reboot(command)
}

// waitForOthers returns when no other process with a program of its own is left, or after limit.
func waitForOthers(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !othersRun() {
			return
		}
	}
}

// othersRun looks for a process that is neither process 1 nor a kernel thread, which has no command line.
func othersRun() bool {
	for _, path := range sortedGlob("/proc/[0-9]*/cmdline") {
		if path == "/proc/1/cmdline" {
			continue
		}
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			return true
		}
	}
	return false
}
