package standin

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// argument is the first one of a program that is to be a machine. The guest's directory and its token follow.
const argument = "standin-machine"

// statusFile, in a guest's directory, holds what the monitor answers to query-status; "running" when it is absent.
const statusFile = "standin-status"

// Serve is a machine's life, if that is what the program with these arguments was started for. It says on out when its
// monitor listens, and returns once that has been told to quit.
func Serve(args []string, out io.Writer) (served bool, err error) {
	if len(args) < 3 || args[1] != argument {
		return false, nil
	}
	l, err := net.Listen("unix", vm.AgentSocketPath(args[2]))
	if err != nil {
		return true, err
	}
	defer l.Close()
	if _, err := io.WriteString(out, "listening\n"); err != nil {
		return true, err
	}
	for quit := false; !quit; { // one client at a time, as QEMU has it
		conn, err := l.Accept()
		if err != nil {
			return true, err
		}
		quit = converse(conn, args[2])
		conn.Close()
	}
	return true, nil
}

// Lay makes a guest in an agent's state directory, with a running machine. Whoever holds the state directory ends the
// machine: the agent's Purge, or its monitor's quit.
func Lay(stateDir string, id ids.Instance) error {
	spec := vm.Spec{
		Dir: filepath.Join(stateDir, "guests", string(id)), ID: id, Generation: 1, VCPUs: 1, MemoryMiB: 128, Token: rand.Text(),
		Direct: &vm.DirectBoot{Kernel: "/none"},
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return fmt.Errorf("lay guest %s: %w", id, err)
	}
	if err := vm.WriteJSON(spec.Dir, "agent.json", map[string]bool{"deleteRoot": true}); err != nil { // that a document named it
		return fmt.Errorf("lay guest %s: %w", id, err)
	}
	if err := vm.WriteSpec(spec); err != nil {
		return fmt.Errorf("lay guest %s: %w", id, err)
	}
	pid, err := start(spec)
	if err != nil {
		return fmt.Errorf("lay guest %s: %w", id, err)
	}
	started, err := vm.StartTime(pid)
	if err == nil {
		err = vm.WriteProcess(spec.Dir, vm.Process{PID: pid, StartTime: started, BootID: vm.BootID(), Token: spec.Token})
	}
	if err != nil {
		syscall.Kill(pid, syscall.SIGKILL)
		return fmt.Errorf("lay guest %s: %w", id, err)
	}
	return nil
}

// SetStatus is what the machine of a guest answers from now on when it is asked how it does: a status of QEMU's.
func SetStatus(stateDir string, id ids.Instance, status string) error {
	return os.WriteFile(filepath.Join(stateDir, "guests", string(id), statusFile), []byte(status), 0o600)
}

// start runs a machine until it says that its monitor listens.
func start(spec vm.Spec) (pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, argument, spec.Dir, vm.GuestArgument(spec))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || line != "listening\n" {
		cmd.Process.Kill()
		cmd.Wait()
		return 0, fmt.Errorf("start machine: it said %q: %w", strings.TrimSpace(line), errors.Join(err, fs.ErrInvalid))
	}
	go cmd.Wait() // a zombie would be left until this process ends
	return cmd.Process.Pid, nil
}

// converse speaks QMP with one client until it goes or says quit.
func converse(conn net.Conn, dir string) (quit bool) {
	say := func(v any) bool {
		b, err := json.Marshal(v)
		if err == nil {
			_, err = conn.Write(append(b, '\n'))
		}
		return err == nil
	}
	version := map[string]any{"qemu": map[string]int{"major": 7, "minor": 2, "micro": 0}, "package": "standin"}
	say(map[string]any{"QMP": map[string]any{"version": version, "capabilities": []string{}}})
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var command struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &command) != nil {
			return false
		}
		var result any = struct{}{}
		if command.Execute == "query-status" {
			status := status(dir)
			result = map[string]any{"status": status, "running": status == "running", "singlestep": false}
		}
		if command.Execute == "ringbuf-read" { // a guest that says nothing
			result = ""
		}
		if !say(map[string]any{"return": result, "id": command.ID}) {
			return false
		}
		switch command.Execute {
		case "quit":
			return true
		case "system_powerdown": // a guest that obeys at once
			now := time.Now()
			say(map[string]any{"event": "SHUTDOWN", "data": map[string]any{"guest": true, "reason": "guest-shutdown"},
				"timestamp": map[string]int64{"seconds": now.Unix(), "microseconds": int64(now.Nanosecond() / 1000)}})
		}
	}
	return false
}

func status(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, statusFile))
	if err != nil {
		return "running"
	}
	return strings.TrimSpace(string(b))
}
