package daemon

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// startTicks is the process's start time in clock ticks since boot, 0 when there is no such process or it is a zombie. A
// killed process whose first thread is a zombie while others are still on their way out has not ended: it holds its locks.
// See proc_pid_stat(5); the command name may hold spaces and brackets, so fields are counted from its last bracket.
func startTicks(pid int) uint64 {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return 0
	}
	fields := strings.Fields(string(raw[end+1:]))
	const state, threads, start = 0, 17, 19 // fields 3, 20 and 22 of the page
	if len(fields) <= start || fields[state] == "Z" && (fields[threads] == "1" || fields[threads] == "0") || fields[state] == "X" {
		return 0
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return 0
	}
	return ticks
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(raw))
}
