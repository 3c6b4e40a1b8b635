package proc

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// children are the processes whose end someone waits for. The lock covers a start and its registration together: the
// reaper must not see a child that is ours and not yet known.
var children = struct {
	sync.Mutex
	ours map[int]bool
	kick chan struct{}
}{ours: map[int]bool{}, kick: make(chan struct{}, 1)}

// Start is cmd.Start for a program that may be process 1.
func Start(cmd *exec.Cmd) error {
	children.Lock()
	defer children.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	children.ours[cmd.Process.Pid] = true
	return nil
}

// Wait is cmd.Wait for a command that Start started.
func Wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	children.Lock()
	delete(children.ours, cmd.Process.Pid)
	children.Unlock()
	select {
	case children.kick <- struct{}{}: // what the reaper held back for this child may go on
	default:
	}
	return err
}

// Run is Start and Wait.
func Run(cmd *exec.Cmd) error {
	if err := Start(cmd); err != nil {
		return err
	}
	return Wait(cmd)
}

// Reap collects orphans for ever. Only process 1 calls it.
func Reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for {
		reapOnce()
		select {
		case <-ended:
		case <-children.kick:
		}
	}
}

// reapOnce collects orphans until none is left or the next dead child is one that someone else collects.
func reapOnce() {
	for {
		pid, err := peek()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
		children.Lock()
		ours := children.ours[pid]
		children.Unlock()
		if ours {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it is dead: this cannot block, and its status is nobody's
	}
}

// peek returns a dead child without collecting it, or 0.
func peek() (int, error) {
	// The C union siginfo_t: the pid lies behind three ints and four bytes of padding.
	var info [128]byte
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
		unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(*(*int32)(unsafe.Pointer(&info[16]))), nil
}
