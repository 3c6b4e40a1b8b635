package bench

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStartRefusesMemory(t *testing.T) {
	var s unix.Statfs_t
	const dir = "/dev/shm"
	if err := unix.Statfs(dir, &s); err != nil || s.Type != unix.TMPFS_MAGIC {
		t.Skipf("%s is no file system in memory: %v", dir, err)
	}
	before, _ := os.ReadDir(dir)
	if _, err := Start(Options{Part: "part", Dir: dir}); err == nil || !strings.Contains(err.Error(), "in memory: give --dir") {
		t.Errorf("start in memory: %v, want a refusal that says what to do", err)
	}
	if after, _ := os.ReadDir(dir); len(after) != len(before) {
		t.Errorf("%s had %d entries and has %d", dir, len(before), len(after))
	}
}
