package convert

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// workerUser is the user that a worker of a root server becomes. It is in the range that Debian and systemd leave
	// alone (60578 to 61183), owns nothing, and needs no entry in any file.
	workerUser = 61177
	// addressBytes bounds what a worker may map. Go's runtime reserves about 1.5 GiB of it; what is in use stays far below.
	addressBytes = 4 << 30
	heapBytes    = 256 << 20
	// cpuSeconds and cpuSecondsPerGiB are ten times what a slow machine needs for a disk full of compressed blocks.
	cpuSeconds, cpuSecondsPerGiB = 60, 120
	descriptors                  = 16
	// threads bounds all converting processes of a root server together, which are one user's: each has some ten.
	threads = 512
)

// isolate starts the worker without the host's network, processes and mounts, where that may be done.
func isolate(cmd *exec.Cmd) {
	if os.Geteuid() != 0 {
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID}
}

// confine takes from this process all that conversion does not need, for good. It is called before the file is read.
func confine(maxVirtualBytes uint64) error {
	debug.SetMemoryLimit(heapBytes)
	cpu := cpuSeconds + cpuSecondsPerGiB*(maxVirtualBytes>>30+1)
	for resource, limit := range map[int]uint64{
		unix.RLIMIT_AS: addressBytes, unix.RLIMIT_CPU: cpu, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: descriptors,
	} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("set limit %d to %d: %w", resource, limit, err)
		}
	}
	if os.Geteuid() == 0 { // else the user's other processes would count
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: threads, Max: threads}); err != nil {
			return fmt.Errorf("set limit of threads: %w", err)
		}
		if err := become(workerUser); err != nil {
			return err
		}
	}
	return filter()
}

// become gives up root in every thread.
func become(user int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave groups: %w", err)
	}
	if err := syscall.Setresgid(user, user, user); err != nil {
		return fmt.Errorf("become group %d: %w", user, err)
	}
	if err := syscall.Setresuid(user, user, user); err != nil {
		return fmt.Errorf("become user %d: %w", user, err)
	}
	return nil
}

// allowed is what Go's runtime and reading one descriptor need. None of them opens, connects, executes, or reaches
// another process; clone is allowed for threads only.
var allowed = []uint32{
	unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_MINCORE,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_RESTART_SYSCALL, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT,
	unix.SYS_EVENTFD2, unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,
}

// Offsets in struct seccomp_data, and its architectures (linux/audit.h).
const (
	dataNumber, dataArch, dataArgument0, dataArgument1 = 0, 4, 16, 24
	archAMD64, archARM64                               = 0xc000003e, 0xc00000b7
)

// filter installs the system call filter for all threads, those of tomorrow included. A call that is not allowed answers
// EPERM; one of another architecture ends the process.
func filter() error {
	program := rules()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	failed, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 || failed != 0 {
		return fmt.Errorf("install system call filter (thread %d): %w", failed, errno)
	}
	return nil
}

// rules is the filter's program.
func rules() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(test uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	arch := uint32(archAMD64)
	if runtime.GOARCH == "arm64" {
		arch = archARM64
	}
	deny := answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	program := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, arch, 1, 0), answer(unix.SECCOMP_RET_KILL_PROCESS),
		load(dataNumber),
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4), load(dataArgument0), jump(unix.BPF_JSET, unix.CLONE_THREAD, 0, 1), answer(unix.SECCOMP_RET_ALLOW), deny,
		// What clone3 is asked for is in memory, where no filter looks. Told that there is none, the C library uses clone.
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), answer(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
		// The runtime ends its own threads' sleep with a signal to itself: to this process alone.
		jump(unix.BPF_JEQ, unix.SYS_TGKILL, 0, 4), load(dataArgument0), jump(unix.BPF_JEQ, uint32(os.Getpid()), 0, 1), answer(unix.SECCOMP_RET_ALLOW), deny,
	}
	// Flags of descriptors, and not F_SETOWN and F_SETSIG: by those the kernel would send any signal to any process of the user.
	program = append(program, jump(unix.BPF_JEQ, unix.SYS_FCNTL, 0, 4), load(dataArgument1), jump(unix.BPF_JGT, unix.F_SETFL, 1, 0), answer(unix.SECCOMP_RET_ALLOW), deny)
	for _, number := range allowed {
		program = append(program, jump(unix.BPF_JEQ, number, 0, 1), answer(unix.SECCOMP_RET_ALLOW))
	}
	return append(program, deny)
}
