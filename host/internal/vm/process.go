package vm

import (
	"errors"
	"os"
	"strings"
)

// Process identifies a machine's process beyond doubt: pids and start times are reused across boots.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot
	BootID    string `json:"bootId"`
	Token     string `json:"token"` // on its command line
}

// ErrGone: the process of a record does not run any more.
var ErrGone = errors.New("process is gone")

// ErrRebooted: the record is of an earlier boot of this machine.
var ErrRebooted = errors.New("machine has booted since")

// WriteProcess records the guest's process. The record outlives a power loss: without one the guest counts as one that
// never ran, and is started again.
func WriteProcess(dir string, p Process) error {
	return WriteJSON(dir, processFile, p)
}

// ReadProcess reads the record; found is false when the agent died before it was written.
func ReadProcess(dir string) (p Process, found bool) {
	err := readJSON(dir, processFile, &p)
	return p, err == nil && p.PID > 1
}

// GuestArgument is the word on a machine's command line that names its guest and this start of it.
func GuestArgument(spec Spec) string { return "guest=" + string(spec.ID) + "@" + spec.Token }

// BootID is the machine's current boot. It is "" where the system does not tell.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
