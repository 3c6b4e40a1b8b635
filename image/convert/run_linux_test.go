package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/inspect"
)

// TestMain lets the test binary be the worker, an escape that the worker must not manage, or a worker that misbehaves.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "work":
		if err := Work(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "escape":
		escape()
	case "stall": // asleep, so that no bound of processor time ends it
		frameWriter{os.Stdout}.Begin(Summary{Format: "raw", VirtualBytes: 512}) //nolint:errcheck // the test sees what has arrived
		time.Sleep(time.Hour)
	case "slow": // busy for longer than StallAfter, with nothing to send
		for range 5 {
			time.Sleep(stallAfter / 3)
			telling := telling{r: strings.NewReader("x"), out: frameWriter{os.Stdout}, untold: aliveBytes}
			telling.ReadAt(make([]byte, 1), 0) //nolint:errcheck // the test sees what has arrived
		}
		os.Args = slices.Replace(os.Args, 1, 2, "work")
		Work(context.Background(), os.Args[2:]) //nolint:errcheck // the same
	case "die":
		os.Stdout.Write([]byte{frameSummary, 0, 0})
		fmt.Fprintln(os.Stderr, "out of luck")
	default:
		os.Exit(m.Run())
	}
}

func image(t *testing.T, b []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var testLimits = inspect.Limits{MaxVirtualBytes: 1 << 30, MaxExpansion: 100}

func TestRun(t *testing.T) {
	want := fixture(t, "raw")
	for name, format := range fixtures {
		c := collect{t: t}
		s, err := Worker{Command: []string{os.Args[0], "work"}}.Run(t.Context(), image(t, fixture(t, name)), testLimits, &c)
		if err != nil || s.Format != format || !bytes.Equal(c.disk, want) {
			t.Errorf("%s: %+v, %v, same bytes %v", name, s, err, bytes.Equal(c.disk, want))
		}
	}
	var refusal *inspect.Refusal
	if _, err := (Worker{Command: []string{os.Args[0], "work"}}).Run(t.Context(), image(t, []byte("vhdxfile"+strings.Repeat("\x00", 600))), testLimits, &collect{t: t}); !errors.As(err, &refusal) || refusal.Format != "VHDX" {
		t.Errorf("VHDX: %v", err)
	}
	if _, err := (Worker{Command: []string{os.Args[0], "die"}}).Run(t.Context(), image(t, want), testLimits, &collect{t: t}); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("a worker that dies: %v", err)
	}
	full := errors.New("no space")
	if _, err := (Worker{Command: []string{os.Args[0], "work"}}).Run(t.Context(), image(t, want), testLimits, &collect{t: t, fail: full}); !errors.Is(err, full) {
		t.Errorf("a sink that fails: %v", err)
	}
}

// stallAfter is short beside the hour that the test's worker sleeps, and long beside what starting it takes.
const stallAfter = 3 * time.Second

// TestStalled holds that a worker that sleeps is ended and told by name, and that one that reads and sends nothing is not.
func TestStalled(t *testing.T) {
	t.Parallel()
	file := image(t, fixture(t, "raw"))
	w := Worker{Command: []string{os.Args[0], "stall"}, StallAfter: stallAfter}
	if _, err := w.Run(t.Context(), file, testLimits, &collect{t: t}); !errors.Is(err, ErrStalled) || !strings.Contains(err.Error(), stallAfter.String()) {
		t.Errorf("a worker that sleeps: %v", err)
	}
	w.Command[1] = "slow"
	if _, err := w.Run(t.Context(), file, testLimits, &collect{t: t}); err != nil {
		t.Errorf("a worker that reads: %v", err)
	}
}

// TestProbe holds that the probe runs a worker, and tells of one that does not work.
func TestProbe(t *testing.T) {
	if err := (Worker{Command: []string{os.Args[0], "work"}}).Probe(t.Context()); err != nil {
		t.Errorf("a worker that works: %v", err)
	}
	if err := (Worker{Command: []string{os.Args[0], "die"}}).Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("a worker that dies: %v", err)
	}
}

// TestConfined runs a worker that has been taken over, and asks what it could do.
func TestConfined(t *testing.T) {
	cmd := exec.Command(os.Args[0], "escape")
	cmd.Env = []string{"GOMAXPROCS=2"}
	cmd.ExtraFiles = []*os.File{image(t, []byte("x"))}
	isolate(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "confined\n") {
		t.Fatalf("%v: %s", err, out)
	}
	t.Log(strings.TrimSpace(string(out)))
}

// escape tries what an attacker would, in a confined process, and reports what worked.
func escape() {
	before := os.Geteuid()
	limits, err := os.Open("/proc/self/limits")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := confine(1 << 30); err != nil {
		fmt.Println("confine:", err)
		os.Exit(1)
	}
	report := func(what string, err error) {
		if err == nil {
			fmt.Println("it could", what)
			os.Exit(2)
		}
	}
	_, err = os.ReadFile("/etc/passwd")
	report("open a file", err)
	report("write a file", os.WriteFile("/tmp/nimbrel-escape", nil, 0o600))
	_, err = net.Dial("tcp", "127.0.0.1:1")
	if err != nil && !errors.Is(err, syscall.EPERM) {
		fmt.Println("a socket was made:", err)
		os.Exit(2)
	}
	report("run a program", exec.Command("/bin/true").Run())
	_, err = os.StartProcess("/bin/true", nil, &os.ProcAttr{})
	report("fork", err)
	report("signal its parent", syscall.Kill(os.Getppid(), 0))
	report("trace", unix.PtraceAttach(os.Getppid()))
	report("mount", unix.Mount("none", "/tmp", "tmpfs", 0, ""))
	report("make a namespace", unix.Unshare(unix.CLONE_NEWUSER))
	report("raise a limit", unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: 1}))
	_, err = unix.FcntlInt(inputDescriptor, unix.F_SETOWN, os.Getppid())
	report("have the kernel signal its parent", err)
	if b, err := io.ReadAll(limits); before == 0 && !regexp.MustCompile(fmt.Sprintf(`Max processes +%d `, threads)).Match(b) {
		fmt.Printf("threads are not bounded: %v, %s", err, b)
		os.Exit(2)
	}
	_, err = unix.MemfdCreate("x", 0)
	report("make a memory file", err)
	started, done := make(chan struct{}), make(chan struct{})
	for range 32 { // threads may still be made, by the runtime and by the C library: the runtime needs them
		go func() {
			runtime.LockOSThread()
			started <- struct{}{}
			<-done
		}()
		<-started
	}
	close(done)
	if _, err := os.NewFile(inputDescriptor, "").ReadAt(make([]byte, 1), 0); err != nil {
		fmt.Println("its input:", err)
		os.Exit(2)
	}
	fmt.Println("was user", before)
	fmt.Println("confined")
}
