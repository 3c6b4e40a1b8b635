package qemu_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// TestFullDisk: a guest whose host's disk is full is paused, not told of an error, and goes on by itself once there is
// room, also when that is under the next agent.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a small file system is mounted")
	}
	small := t.TempDir()
	if err := unix.Mount("nimbrel-test", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("no file system can be mounted: ", err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	machine := startGuest(t, func(s *vm.Spec) {
		s.Dir = filepath.Join(small, "guest")
		s.Disk = vm.Disk{Base: base, BaseFormat: "raw", SizeBytes: 1 << 20}
	})
	subject{}.Booted(t, machine)
	filler, err := os.Create(filepath.Join(small, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = filler.Write(make([]byte, block))
		}
	}
	filler.Close()
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		answer, err := askFor(t.Context(), machine, "write changed")
		if err != nil {
			answer = err.Error()
		}
		answered <- answer
	}()
	changed(t, machine, func(s vm.Status) bool { return s.State == vm.StatePaused && s.Detail == "io-error" })
	machine.Release()
	next, err := subject{}.Driver(t).Adopt(t.Context(), machine.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.Kill(context.Background()); next.Release() })
	select {
	case answer := <-answered:
		t.Fatalf("the guest's write ended on a full disk: %s", answer)
	default:
	}
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	if answer := <-answered; answer != "done" {
		t.Errorf("the guest's write: %s", answer)
	}
	if got := ask(t, next, "read"); got != "changedc" {
		t.Errorf("disk begins with %q", got)
	}
}

// changed waits until the machine's status is as wanted, looking whenever it says that it may be.
func changed(t *testing.T, machine vm.VM, as func(vm.Status) bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		now, err := machine.Status(t.Context())
		if err == nil && as(now) {
			return
		}
		select {
		case <-machine.Changes():
		case <-limit:
			t.Fatalf("status is %+v, %v", now, err)
		}
	}
}
