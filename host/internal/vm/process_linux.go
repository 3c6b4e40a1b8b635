package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Handle is a running process that cannot be mistaken for a later one of the same pid.
type Handle struct {
	Process
	file *os.File // pidfd, in the runtime's poller
	once sync.Once
}

// NewHandle takes over pidfd, which refers to the process p.
func NewHandle(p Process, pidfd int) (*Handle, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	return &Handle{Process: p, file: os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// OpenProcess finds the process of a record. Errors: ErrGone, ErrRebooted.
func OpenProcess(p Process) (*Handle, error) {
	if p.BootID != BootID() {
		return nil, ErrRebooted
	}
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: the pid is now a thread of another process
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	// The descriptor is held first, so that what is read next is about the process that it names or about none.
	started, err := StartTime(p.PID)
	if err != nil || started != p.StartTime || !hasToken(p.PID, p.Token) {
		unix.Close(pidfd)
		return nil, ErrGone
	}
	return NewHandle(p, pidfd)
}

// FindProcess looks through the running processes for a token: for the guest whose agent died between starting it and
// recording it. Errors: ErrGone.
func FindProcess(token string) (Process, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || token == "" {
		return Process{}, ErrGone
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil || !hasToken(pid, token) {
			continue
		}
		if started, err := StartTime(pid); err == nil {
			return Process{PID: pid, StartTime: started, BootID: BootID(), Token: token}, nil
		}
	}
	return Process{}, ErrGone
}

// guestWord is how a machine's command line names its guest; see GuestArgument.
var guestWord = regexp.MustCompile(`guest=(i-[0-9a-f]{17})@`)

// FindMachines lists the running machines, by guest, of the users from uidBase on: those of one host, also when nothing on
// its disk tells of them. A zero base finds none: such machines run as the agent's user and may be another host's.
func FindMachines(uidBase, uidCount int) map[ids.Instance]int {
	found := map[ids.Instance]int{}
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || uidBase == 0 {
		return found
	}
	for _, entry := range entries {
		var info unix.Stat_t
		if unix.Stat(entry, &info) != nil || int(info.Uid) < uidBase || int(info.Uid) >= uidBase+uidCount {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil {
			continue
		}
		if named := guestWord.FindSubmatch(commandLine(pid)); named != nil {
			found[ids.Instance(named[1])] = pid
		}
	}
	return found
}

// hasToken looks for the token as a word of the command line. A zombie has no command line and no token.
func hasToken(pid int, token string) bool {
	return token != "" && bytes.Contains(commandLine(pid), []byte(token))
}

// execPatience bounds how long a process may be seen between two programs.
const execPatience = time.Second

// commandLine is the arguments of a process, empty for one that is ending or has ended, and for the kernel's own. Inside
// execve a process has its new memory before the arguments are in it, and with a cold page cache disk reads lie between:
// it is waited for, or a machine would be taken for gone in its first milliseconds.
func commandLine(pid int) []byte {
	for end := time.Now().Add(execPatience); ; time.Sleep(time.Millisecond) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(line) > 0 || time.Now().After(end) {
			return line
		}
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil { // it has no memory at all
			return nil
		}
	}
}

// StartTime is when a process started, in clock ticks since boot.
func StartTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the command in parentheses and may itself hold any byte: count from the last parenthesis.
	end := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, fmt.Errorf("process %d: malformed stat", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64) // field 22
}

// Wait returns when the process has ended, or when the handle is closed (os.ErrClosed). A zombie has ended.
func (h *Handle) Wait() error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(ready, 0)
		return n > 0
	})
	if err != nil { // with no deadline set, only Close ends the wait
		return os.ErrClosed
	}
	return nil
}

// Kill sends SIGKILL to exactly this process. It is no error that it has ended. After Close it is os.ErrClosed: the
// descriptor's number may be another process's by then.
func (h *Handle) Kill() error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var killed error
	if err := conn.Control(func(fd uintptr) { killed = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); err != nil {
		return os.ErrClosed
	}
	if errors.Is(killed, unix.ESRCH) {
		return nil
	}
	return killed
}

// Close lets go of the process.
func (h *Handle) Close() { h.once.Do(func() { h.file.Close() }) }
