package vm

import (
	"bytes"
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestConsoleTail(t *testing.T) {
	dir := t.TempDir()
	if b, err := ReadConsole(dir, 10); err != nil || len(b) != 0 {
		t.Errorf("no console: %q, %v", b, err)
	}
	os.WriteFile(ConsolePath(dir), []byte(strings.Repeat("x", MaxConsoleBytes)+"the end"), 0o600)
	for _, c := range []struct{ tail, want int }{{7, 7}, {0, MaxConsoleBytes}, {-1, MaxConsoleBytes}, {1 << 30, MaxConsoleBytes}} {
		b, err := ReadConsole(dir, c.tail)
		if err != nil || len(b) != c.want || !bytes.HasSuffix(b, []byte("the end")) {
			t.Errorf("tail %d: %d bytes, %v; want %d", c.tail, len(b), err, c.want)
		}
	}
}

// TestTrimLogs holds that a guest that never stops writing keeps a bounded log, and that the tail survives.
func TestTrimLogs(t *testing.T) {
	dir := t.TempDir()
	log, err := os.OpenFile(ConsolePath(dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10) // 1 MiB
	for range 8 {
		log.Write(chunk)
		if err := TrimLogs(dir); err != nil {
			t.Fatal(err)
		}
	}
	log.WriteString("last words")
	info, _ := log.Stat()
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > MaxConsoleBytes+2*consoleSlackBytes {
		t.Errorf("log uses %d bytes", used)
	}
	b, err := ReadConsole(dir, 0)
	if err != nil || !bytes.HasSuffix(b, []byte("abcde\nlast words")) || bytes.IndexByte(b, 0) >= 0 {
		t.Errorf("tail is %d bytes, %v, ending in %q", len(b), err, b[max(0, len(b)-20):])
	}
}

// signalWriter hands each write to the test.
type signalWriter chan string

func (w signalWriter) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestFollowConsole(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(ConsolePath(dir), []byte("past "), 0o600)
	done := make(chan struct{})
	seen := make(signalWriter, 8)
	ended := make(chan error, 1)
	go func() { ended <- FollowConsole(t.Context(), dir, 3, seen, done) }()
	if got := <-seen; got != "st " {
		t.Errorf("tail %q", got)
	}
	log, _ := os.OpenFile(ConsolePath(dir), os.O_WRONLY|os.O_APPEND, 0)
	defer log.Close()
	log.WriteString("present")
	if got := <-seen; got != "present" {
		t.Errorf("followed %q", got)
	}
	log.WriteString("end")
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := <-seen; got != "end" {
		t.Errorf("last words %q", got)
	}
}

func TestFollowConsoleEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- FollowConsole(ctx, t.TempDir(), 0, make(signalWriter, 1), nil) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("goes on after its context")
	}
}
