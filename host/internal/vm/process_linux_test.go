package vm

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for a machine's process: it lives until its input closes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "machine" {
		bufio.NewReader(os.Stdin).ReadByte()
		return
	}
	os.Exit(m.Run())
}

func startMachine(t *testing.T, token string) (Process, func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "machine", "name="+token)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started, err := StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	end := func() { stdin.Close(); cmd.Wait() }
	t.Cleanup(end)
	return Process{PID: cmd.Process.Pid, StartTime: started, BootID: BootID(), Token: token}, end
}

func TestOpenProcess(t *testing.T) {
	p, _ := startMachine(t, "token-of-open")
	h, err := OpenProcess(p)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	for name, spoil := range map[string]struct {
		change func(*Process)
		want   error
	}{
		"another start time": {func(p *Process) { p.StartTime++ }, ErrGone},
		"another boot":       {func(p *Process) { p.BootID = "0" }, ErrRebooted},
		"another token":      {func(p *Process) { p.Token = "token-of-nobody" }, ErrGone},
		"no token":           {func(p *Process) { p.Token = "" }, ErrGone},
		"no such pid":        {func(p *Process) { p.PID = 1 << 22 }, ErrGone},
	} {
		q := p
		spoil.change(&q)
		if _, err := OpenProcess(q); !errors.Is(err, spoil.want) {
			t.Errorf("%s: %v, want %v", name, err, spoil.want)
		}
	}
}

func TestFindProcess(t *testing.T) {
	p, end := startMachine(t, "token-of-find")
	if got, err := FindProcess(p.Token); err != nil || got != p {
		t.Errorf("FindProcess = %+v, %v; want %+v", got, err, p)
	}
	end()
	if got, err := FindProcess(p.Token); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %+v, %v", got, err)
	}
}

// TestFoundInsideExec: a process that becomes another program, as the shell that becomes QEMU does, is there all the time.
func TestFoundInsideExec(t *testing.T) {
	const token = "token-of-exec"
	cmd := exec.Command("/bin/sh", "-c", `[ "$0" = 0 ] || exec /bin/sh -c "$2" $(($0 - 1)) "$1" "$2"; exec sleep 60`, "1000", token)
	cmd.Args = append(cmd.Args, cmd.Args[2])
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	started, err := StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p := Process{PID: cmd.Process.Pid, StartTime: started, BootID: BootID(), Token: token}
	for looks := 0; ; looks++ {
		if line := commandLine(p.PID); bytes.HasPrefix(line, []byte("sleep")) {
			t.Logf("%d looks", looks)
			return
		}
		handle, err := OpenProcess(p)
		if err != nil && !bytes.HasPrefix(commandLine(p.PID), []byte("sleep")) { // which does not carry the token
			t.Fatalf("look %d: %v", looks, err)
		}
		if err == nil {
			handle.Close()
		}
	}
}

// TestWaitSeesZombie holds that an end is noticed although nobody reaps the process.
func TestWaitSeesZombie(t *testing.T) {
	p, _ := startMachine(t, "token-of-zombie")
	h, err := OpenProcess(p)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ended := make(chan error, 1)
	go func() { ended <- h.Wait() }()
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("end not noticed")
	}
	if _, err := OpenProcess(p); !errors.Is(err, ErrGone) {
		t.Errorf("zombie opened: %v", err)
	}
	if err := h.Kill(); err != nil {
		t.Errorf("kill of an ended process: %v", err)
	}
}

func TestCloseEndsWait(t *testing.T) {
	p, _ := startMachine(t, "token-of-close")
	h, err := OpenProcess(p)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Wait() }()
	h.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Wait = %v, want os.ErrClosed", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Wait goes on after Close")
	}
}
