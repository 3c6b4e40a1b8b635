package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// process is a machine's process right after it was spawned by this agent.
type process struct {
	*vm.Handle
	cmd *exec.Cmd
}

// bounded becomes QEMU, whose path and arguments follow it, in the same process, as the guest's own user. A core would hold
// the guest's memory. 1,024 descriptors are many times what a machine opens. The score makes the kernel end a guest before
// the agent and the server when the machine is out of memory; one over its group's limit is ended there, whatever its
// score. A bound that cannot be set is no reason to refuse a guest.
const bounded = `ulimit -c 0 || :; ulimit -n 1024 || :; echo 500 >/proc/self/oom_score_adj || :; exec "$0" "$@"`

// spawn runs QEMU in a session of its own, with no tie to the agent's life, and records it before anything else can fail.
func (o Options) spawn(spec vm.Spec, args []string, files []*os.File) (*process, error) {
	log, err := os.OpenFile(vm.LogPath(spec.Dir), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	binary, err := exec.LookPath(o.Binary)
	if err != nil {
		return nil, fmt.Errorf("spawn %s: %w", o.Binary, err)
	}
	pidfd := -1
	cmd := exec.Command("/bin/sh", append([]string{"-c", bounded, binary}, args...)...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, files
	cmd.SysProcAttr = confine(spec.UID)
	cmd.SysProcAttr.PidFD = &pidfd
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("spawn %s: %w", o.Binary, err)
	}
	p := vm.Process{PID: cmd.Process.Pid, BootID: vm.BootID(), Token: spec.Token}
	handle, err := vm.NewHandle(p, pidfd)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	child := &process{handle, cmd}
	o.Reached("spawned")
	if handle.StartTime, err = vm.StartTime(p.PID); err == nil {
		err = vm.WriteProcess(spec.Dir, handle.Process)
	}
	if err != nil {
		child.end()
		return nil, err
	}
	o.Reached("recorded")
	return child, nil
}

// end kills and reaps a process whose start did not succeed.
func (p *process) end() {
	p.Kill()
	p.cmd.Wait()
	p.Close()
}

// confine makes the process leader of its own session. As root it also takes another user, that user's only extra group
// being the one that may open /dev/kvm, and an empty network namespace.
func confine(uid int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		attr.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWIPC
	}
	if uid != 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: kvmGroup()}
	}
	return attr
}

// kvmGroup is the group that may open /dev/kvm, if the system has given it one.
func kvmGroup() []uint32 {
	var info unix.Stat_t
	if err := unix.Stat("/dev/kvm", &info); err != nil || info.Gid == 0 || info.Mode&0o060 != 0o060 {
		return nil
	}
	return []uint32{info.Gid}
}

// exitStatus is the child's exit status, or -n when signal n ended it.
func (p *process) exitStatus() int {
	p.cmd.Wait()
	state, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return vm.StatusUnknown
	case state.Signaled():
		return -int(state.Signal())
	}
	return state.ExitStatus()
}

// lastWords is the end of what the machine's process had to say, for an error message.
func lastWords(dir string) string {
	file, err := os.Open(vm.LogPath(dir))
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(2048, info.Size())) // the log may be long, and mostly a hole
	n, _ := file.ReadAt(b, info.Size()-int64(len(b)))
	lines := strings.Split(strings.TrimSpace(string(b[:n])), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
