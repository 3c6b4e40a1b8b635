package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testDir(t *testing.T) Dir {
	base := t.TempDir()
	return Dir{Run: filepath.Join(base, "run"), Log: filepath.Join(base, "log")}
}

// awaitLog waits until a daemon has written a word.
func awaitLog(t *testing.T, rec Record, word string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if raw, err := os.ReadFile(rec.Log); err == nil && strings.Contains(string(raw), word) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s never wrote %q", rec.Name, word)
		}
	}
}

func TestStartTwiceStopTwice(t *testing.T) {
	d := testDir(t)
	spec := Spec{Name: "sleeper", Path: "/bin/sh", Args: []string{"-c", "echo begun; exec sleep 600"}}
	first, started, err := d.Start(spec)
	if err != nil || !started {
		t.Fatalf("Start: %v, started %v", err, started)
	}
	awaitLog(t, first, "begun")
	again, started, err := d.Start(spec)
	if err != nil || started || again.PID != first.PID {
		t.Fatalf("second Start: %+v, started %v, %v", again, started, err)
	}
	for range 2 {
		if err := d.Stop("sleeper", 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if first.Running() {
		t.Fatal("still running after Stop")
	}
	if recs, _ := d.List(); len(recs) != 0 {
		t.Errorf("records left: %v", recs)
	}
}

func TestStopKillsTheDeaf(t *testing.T) {
	d := testDir(t)
	rec, _, err := d.Start(Spec{Name: "deaf", Path: "/bin/sh", Args: []string{"-c", `trap "" TERM; echo deaf; while :; do sleep 1; done`}})
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, rec, "deaf")
	if err := d.Stop("deaf", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if rec.Running() {
		t.Fatal("still running")
	}
}

// A record from before a reboot, or of a number that another process has now, must never be signalled.
func TestForeignProcessIsLeftAlone(t *testing.T) {
	d := testDir(t)
	rec, _, err := d.Start(Spec{Name: "mine", Path: "/bin/sleep", Args: []string{"600"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Stop("mine", time.Second) }()
	for _, stale := range []Record{
		{Name: "stale", PID: rec.PID, StartTicks: rec.StartTicks + 1, BootID: rec.BootID},
		{Name: "stale", PID: rec.PID, StartTicks: rec.StartTicks, BootID: "another boot"},
	} {
		if err := writeJSON(filepath.Join(d.Run, "stale.json"), stale); err != nil {
			t.Fatal(err)
		}
		if err := d.Stop("stale", time.Second); err != nil {
			t.Fatal(err)
		}
		if !rec.Running() {
			t.Fatalf("Stop of %+v ended a foreign process", stale)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(path, make([]byte, 3*logKeepBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := truncateLog(path); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Size() != logKeepBytes {
		t.Errorf("log has %d bytes, want %d", info.Size(), logKeepBytes)
	}
}
