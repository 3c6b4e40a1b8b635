package bundle

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// TestOutputIsBounded holds that of what a program prints the last whole lines stay, and that memory does not grow with
// what came before them.
func TestOutputIsBounded(t *testing.T) {
	const lines = 4_000_000 // of 8 to 18 bytes each: some 60 MB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	text, err := output(exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf("seq -f 'line %%.0f' %d", lines)))
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > maxLogBytes || len(text) < maxLogBytes-100 || !bytes.HasPrefix(text, []byte("line ")) || !bytes.HasSuffix(text, []byte(fmt.Sprintf("line %d\n", lines))) {
		t.Errorf("%d bytes from %.20q to %q", len(text), text, text[max(0, len(text)-20):])
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 8*maxLogBytes {
		t.Errorf("%d bytes were allocated for an end of %d", took, maxLogBytes)
	}
	if short, err := output(exec.CommandContext(t.Context(), "sh", "-c", "echo one; echo two; exit 3")); err == nil || string(short) != "one\ntwo\n" {
		t.Errorf("a program that fails: %q, %v", short, err)
	}
}

// TestEnding compares what is kept with the end of all, however it is cut.
func TestEnding(t *testing.T) {
	for range 500 {
		e := ending{keep: 1 + rand.IntN(20)}
		all := ""
		for range rand.IntN(10) {
			part := strings.Repeat("a", rand.IntN(8)) + "\n" + strings.Repeat("b", rand.IntN(30))
			all += part
			if n, err := e.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		want := all
		if len(all) > e.keep {
			_, want, _ = strings.Cut(all[len(all)-e.keep:], "\n")
		}
		if got := string(e.text()); got != want {
			t.Fatalf("the last %d of %q: %q, want %q", e.keep, all, got, want)
		}
	}
}
