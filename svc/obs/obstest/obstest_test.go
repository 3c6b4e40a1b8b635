package obstest

import (
	"fmt"
	"testing"
)

// fakeTest counts failures in place of a test.
type fakeTest struct {
	testing.TB
	failures int
	cleanups []func()
}

func (f *fakeTest) Helper()               {}
func (f *fakeTest) Log(...any)            {}
func (f *fakeTest) Errorf(string, ...any) { f.failures++ }
func (f *fakeTest) Cleanup(fn func())     { f.cleanups = append(f.cleanups, fn) }

func TestLogger(t *testing.T) {
	f := &fakeTest{}
	log := Logger(f, "disk is on fire")
	log.Warn("odd", "err", fmt.Errorf("x"))
	log.Error("the disk is on fire, as planned")
	if f.failures != 0 {
		t.Fatalf("%d failures of what a test may log", f.failures)
	}
	log.With("host", "h-1").Error("row is unreadable")
	if f.failures != 1 {
		t.Errorf("%d failures after an unexpected error, want 1", f.failures)
	}
	log.Info("fine", "stranger", 1)
	if f.failures != 2 {
		t.Errorf("%d failures after a stray key, want 2", f.failures)
	}
	for _, fn := range f.cleanups {
		fn()
	}
	log.Error("after the end")
	if f.failures != 2 {
		t.Errorf("%d failures after the end, want 2", f.failures)
	}
}
