package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/guest/internal/proc"
)

// session is the state of one channel before and while its program runs.
type session struct {
	server  *Server
	channel ssh.Channel
	env     []string
	pty     *pty
	running bool
}

// Request payloads (RFC 4254 §6).
type (
	ptyRequest struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	windowRequest struct{ Columns, Rows, Width, Height uint32 }
	envRequest    struct{ Name, Value string }
	execRequest   struct{ Command string }
	exitStatus    struct{ Status uint32 }
	exitSignal    struct {
		Signal  string
		Core    bool
		Message string
		Lang    string
	}
)

// session accepts a channel and serves its requests until the client closes it or its program has ended.
func (s *Server) session(ctx context.Context, newChannel ssh.NewChannel) {
	channel, requests, err := newChannel.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &session{server: s, channel: channel, env: append([]string{"USER=" + s.User, "LOGNAME=" + s.User, "HOME=" + s.Home, "SHELL=" + s.Shell}, s.Env...)}
	defer func() { x.pty.close() }()
	for request := range requests {
		err := x.handle(ctx, cancel, request)
		if request.WantReply {
			_ = request.Reply(err == nil, nil)
		}
	}
}

var errRequest = errors.New("request refused")

func (x *session) handle(ctx context.Context, done func(), request *ssh.Request) error {
	switch request.Type {
	case "env":
		var e envRequest
		if err := ssh.Unmarshal(request.Payload, &e); err != nil {
			return err
		}
		return x.setEnv(e)
	case "pty-req":
		var p ptyRequest
		if err := ssh.Unmarshal(request.Payload, &p); err != nil {
			return err
		}
		return x.openPTY(p)
	case "window-change":
		var w windowRequest
		if err := ssh.Unmarshal(request.Payload, &w); err != nil {
			return err
		}
		return x.pty.resize(w.Columns, w.Rows)
	case "shell":
		return x.start(ctx, done, "")
	case "exec":
		var e execRequest
		if err := ssh.Unmarshal(request.Payload, &e); err != nil {
			return err
		}
		return x.start(ctx, done, e.Command)
	}
	return errRequest
}

func (x *session) setEnv(e envRequest) error {
	if x.running || len(x.env) > maxEnvironment || e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.Contains(e.Value, "\x00") ||
		strings.HasPrefix(e.Name, "LD_") || e.Name == "PATH" {
		return errRequest
	}
	x.env = append(x.env, e.Name+"="+e.Value)
	return nil
}

func (x *session) openPTY(p ptyRequest) error {
	if x.running || x.pty != nil {
		return errRequest
	}
	opened, err := openPTY(x.server.Credential)
	if err != nil {
		return err
	}
	x.pty = opened
	if !strings.Contains(p.Term, "\x00") {
		x.env = append(x.env, "TERM="+p.Term)
	}
	return opened.resize(p.Columns, p.Rows)
}

// start runs a command line, or a login shell when there is none, and answers its end in the background.
func (x *session) start(ctx context.Context, done func(), command string) error {
	if x.running {
		return errRequest
	}
	cmd := exec.CommandContext(ctx, x.server.Shell, "-c", command)
	if command == "" {
		cmd.Args = []string{"-" + strings.TrimPrefix(x.server.Shell, "/bin/")}
	}
	cmd.Dir, cmd.Env = x.server.Home, x.env
	cmd.WaitDelay = proc.WaitDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: x.server.Credential}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGHUP) }
	drained, err := x.connect(cmd)
	if err != nil {
		return err
	}
	if err := proc.Start(cmd); err != nil {
		fmt.Fprintln(x.channel.Stderr(), err)
		return err
	}
	x.running = true
	if x.pty != nil {
		x.pty.closeSlave() // else the master would never see the end
	}
	go func() {
		defer done()
		defer x.channel.Close()
		err := proc.Wait(cmd)
		select {
		case <-drained:
		case <-time.After(proc.WaitDelay): // a program left in the background holds the terminal
		}
		x.finish(cmd, err)
	}()
	return nil
}

// connect joins the channel to the program. The returned channel is closed when all output has been passed on.
func (x *session) connect(cmd *exec.Cmd) (<-chan struct{}, error) {
	drained := make(chan struct{})
	if x.pty != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = x.pty.slave, x.pty.slave, x.pty.slave
		cmd.SysProcAttr.Setctty = true
		master := x.pty.master
		go func() { _, _ = io.Copy(master, x.channel) }()
		go func() {
			_, _ = io.Copy(x.channel, master) // ends with EIO when the last user of the terminal is gone
			close(drained)
		}()
		return drained, nil
	}
	cmd.Stdout, cmd.Stderr = x.channel, x.channel.Stderr()
	// Not cmd.Stdin: its copier would keep Wait from returning until the client closes its end.
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(in, x.channel)
		in.Close()
	}()
	close(drained)
	return drained, nil
}

// finish tells the client how the program ended.
func (x *session) finish(cmd *exec.Cmd, err error) {
	state := cmd.ProcessState
	if state == nil {
		fmt.Fprintln(x.channel.Stderr(), err)
		return
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		name := strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
		_, _ = x.channel.SendRequest("exit-signal", false, ssh.Marshal(exitSignal{Signal: name}))
		return
	}
	_, _ = x.channel.SendRequest("exit-status", false, ssh.Marshal(exitStatus{uint32(state.ExitCode())}))
}

// pty is a pseudo-terminal. A nil one accepts close and refuses the rest.
type pty struct{ master, slave *os.File }

func openPTY(owner *syscall.Credential) (*pty, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	p := &pty{master: master}
	var number int
	err = p.control(func(fd int) error {
		var err error
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	})
	path := fmt.Sprintf("/dev/pts/%d", number)
	if err == nil {
		p.slave, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil && owner != nil {
		err = os.Chown(path, int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	return p, nil
}

func (p *pty) resize(columns, rows uint32) error {
	if p == nil {
		return errRequest
	}
	size := &unix.Winsize{Col: uint16(min(columns, 4096)), Row: uint16(min(rows, 4096))}
	return p.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// control runs an ioctl without taking the master out of the runtime's poller, as Fd would: there a close ends a
// pending read.
func (p *pty) control(do func(fd int) error) error {
	raw, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = raw.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

func (p *pty) closeSlave() {
	if p.slave != nil {
		p.slave.Close()
		p.slave = nil
	}
}

func (p *pty) close() {
	if p == nil {
		return
	}
	p.closeSlave()
	p.master.Close()
}
