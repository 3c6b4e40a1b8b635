// Package obstest gives tests a real logger: what it is told at level Error fails the test, unless the test expects it,
// and so does a key of a record that is not in obs.Keys. Everything else shows when a test fails or runs verbosely.
//
// Deliberately absent: asserting that something was logged. Logs are for operators; tests look at effects.
package obstest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/svc/obs"
)

// Logger returns a logger for one test. A record at level Error fails the test unless its message holds one of expected.
// It may be used after the test, as goroutines that are slow to end do; what comes then is dropped.
func Logger(t testing.TB, expected ...string) *slog.Logger {
	t.Helper()
	state := &state{t: t, expected: expected}
	t.Cleanup(state.end)
	return slog.New(&handler{state: state})
}

// state is what a logger and those derived from it share.
type state struct {
	expected []string

	mu sync.Mutex
	t  testing.TB // nil once the test has ended
}

func (s *state) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t = nil
}

// tell logs a line, and fails the test if the line must not be.
func (s *state) tell(line string, fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.t == nil:
	case fails:
		s.t.Errorf("unexpected log: %s", line)
	default:
		s.t.Log(line)
	}
}

// expects says whether the test foresaw a message.
func (s *state) expects(message string) bool {
	for _, e := range s.expected {
		if strings.Contains(message, e) {
			return true
		}
	}
	return false
}

// handler implements slog.Handler.
type handler struct {
	state *state
	attrs []slog.Attr
}

// Enabled implements slog.Handler: every level is.
func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.state, append(append([]slog.Attr{}, h.attrs...), attrs...)}
}

// WithGroup implements slog.Handler. The product has no groups: keys are from one flat list.
func (h *handler) WithGroup(name string) slog.Handler {
	h.state.tell("group "+name+" in a log: keys are from one flat list", true)
	return h
}

// Handle implements slog.Handler.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	stray := ""
	add := func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		if !obs.IsKey(a.Key) {
			stray = a.Key
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	if stray != "" {
		h.state.tell(line+": the key "+stray+" is not in obs.Keys", true)
	}
	h.state.tell(line, r.Level >= slog.LevelError && !h.state.expects(r.Message))
	return nil
}
