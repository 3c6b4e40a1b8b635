package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// TestControllersComeBack: the group of all guests goes with the last of them. The next guest must not be in one without
// controllers, where no limit is to be had.
func TestControllersComeBack(t *testing.T) {
	c := &cgroups{unified: true, mounts: []string{t.TempDir()}} // plain files: what is written shows
	parent := filepath.Join(c.mounts[0], cgroupParent)
	spec := vm.Spec{ID: "i-0123456789abcdef0", VCPUs: 1, MemoryMiB: 128}
	for range 2 {
		if err := c.confine(spec, 1); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control")); err != nil || !strings.Contains(string(b), "+memory") {
			t.Errorf("controllers %q, %v", b, err)
		}
		if err := os.RemoveAll(parent); err != nil { // as with the last guest
			t.Fatal(err)
		}
	}
}

// TestMissingLimitIsTold: in the one tree of version 2 a file that cannot be written is a guest without that limit.
func TestMissingLimitIsTold(t *testing.T) {
	c := &cgroups{unified: true, mounts: []string{t.TempDir()}}
	spec := vm.Spec{ID: "i-0123456789abcdef0", VCPUs: 1, MemoryMiB: 128}
	dir := filepath.Join(c.mounts[0], cgroupParent, string(spec.ID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nonexistent/file", filepath.Join(dir, "memory.max")); err != nil { // it is not there, and cannot be made
		t.Fatal(err)
	}
	if err := c.confine(spec, 1); err == nil {
		t.Error("a guest without a limit of memory is told as limited")
	}
}
