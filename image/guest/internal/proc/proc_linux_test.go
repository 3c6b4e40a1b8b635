package proc

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReaperLeavesOurChildren makes this process the parent of orphans, as process 1 is, and starts many children while
// the reaper runs: each must report its own end.
func TestReaperLeavesOurChildren(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skip("cannot adopt orphans: ", err)
	}
	go Reap()
	for i := range 20 {
		// The child leaves a grandchild behind, whose end only the reaper can collect.
		cmd := exec.Command("/bin/sh", "-c", "sleep 0.02 & exit 3")
		if err := Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := Wait(cmd); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 3 {
			t.Fatalf("child %d: %v", i, err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := peek() // ECHILD: neither living nor dead children are left
		if errors.Is(err, unix.ECHILD) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d dead children stay", zombies(t))
		}
	}
}

// zombies counts this process's dead children.
func zombies(t *testing.T) int {
	t.Helper()
	out, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, entry := range out {
		text, err := os.ReadFile("/proc/" + entry.Name() + "/status")
		if err == nil && strings.Contains(string(text), "\nState:\tZ") && strings.Contains(string(text), "\nPPid:\t"+strconv.Itoa(os.Getpid())+"\n") {
			count++
		}
	}
	return count
}

func TestTail(t *testing.T) {
	tail := &Tail{Max: 4}
	for _, text := range []string{"ab", "cdef", ""} {
		if n, err := tail.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	if tail.String() != "cdef" {
		t.Errorf("kept %q", tail.String())
	}
}
