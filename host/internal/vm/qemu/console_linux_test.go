package qemu

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/qmp"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// scripted is a machine whose monitor answers ringbuf-read with what reply says: the content, or an error's text.
func scripted(t *testing.T, reply func() (content []byte, refusal string)) *machine {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	go func() {
		fmt.Fprintln(theirs, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}`)
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var c struct {
				Execute string
				ID      uint64
			}
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				return
			}
			answer := `"return": {}`
			if c.Execute == "ringbuf-read" {
				content, refusal := reply()
				answer = fmt.Sprintf(`"return": %q`, base64.StdEncoding.EncodeToString(content))
				if refusal != "" {
					answer = fmt.Sprintf(`"error": {"class": "GenericError", "desc": %q}`, refusal)
				}
			}
			fmt.Fprintf(theirs, `{%s, "id": %d}`+"\n", answer, c.ID)
		}
	}()
	monitor, err := qmp.New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { monitor.Close() })
	m := newMachine(slog.New(slog.DiscardHandler), vm.Spec{Dir: t.TempDir(), ID: "i-0123456789abcdef0"}, nil, nil, nil)
	m.monitor = monitor
	return m
}

// TestConsoleOfOlderMachine: a machine that an older agent started writes its console's log by itself; this agent asks
// once and leaves it at that.
func TestConsoleOfOlderMachine(t *testing.T) {
	asked := 0
	m := scripted(t, func() ([]byte, string) {
		asked++
		return nil, "'console' is not a ringbuf device"
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.keepConsole(t.Context())
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it asks on")
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// TestTakeIsBounded: a guest that talks faster than it is read holds nobody up for ever, and each part is logged once, in
// order.
func TestTakeIsBounded(t *testing.T) {
	n := byte(0)
	m := scripted(t, func() ([]byte, string) {
		n++
		return bytes.Repeat([]byte{n}, consolePart), ""
	})
	taken, err := m.takeConsole(t.Context())
	if err != nil || taken != consoleRing {
		t.Fatalf("took %d bytes, %v; want one ring, %d", taken, err, consoleRing)
	}
	b, err := vm.ReadConsole(m.spec.Dir, 0)
	if err != nil || len(b) != vm.MaxConsoleBytes || b[0] != n-vm.MaxConsoleBytes/consolePart+1 || b[len(b)-1] != n {
		t.Errorf("%d bytes from %d to %d, %v; the last part was %d", len(b), b[0], b[len(b)-1], err, n)
	}
	close(m.released)
	if taken, err := m.takeConsole(t.Context()); taken != 0 || err != nil {
		t.Errorf("took %d bytes of a released machine, %v", taken, err)
	}
}
