package qcow2

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func qemuImg(t *testing.T, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed (package qemu-utils)")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func raw(t *testing.T, content string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.raw")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestQEMUAccepts lets the format's own program judge overlays from one sector to the largest.
func TestQEMUAccepts(t *testing.T) {
	base := raw(t, "", 1<<20)
	for _, size := range []uint64{512, 1 << 20, guestPerL1, guestPerL1 + 512, 8 << 30, 2 << 40, MaxBytes} {
		path := filepath.Join(t.TempDir(), "overlay")
		if err := Create(path, base, size); err != nil {
			t.Fatal(err)
		}
		qemuImg(t, "check", "-f", "qcow2", path)
		var info struct {
			VirtualSize   uint64 `json:"virtual-size"`
			Backing       string `json:"full-backing-filename"`
			BackingFormat string `json:"backing-filename-format"`
		}
		if err := json.Unmarshal(qemuImg(t, "info", "-f", "qcow2", "--output=json", path), &info); err != nil {
			t.Fatal(err)
		}
		if info.VirtualSize != size || info.Backing != base || info.BackingFormat != "raw" {
			t.Errorf("overlay of %d bytes: %+v", size, info)
		}
	}
}

// TestContent holds that a fresh overlay reads as its base and zeros beyond it, and keeps what is written.
func TestContent(t *testing.T) {
	base := raw(t, "base content", 1<<20)
	overlay := filepath.Join(t.TempDir(), "overlay")
	if err := Create(overlay, base, 4<<20); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", overlay, raw(t, "base content", 4<<20))
	io, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("qemu-io is not installed (package qemu-utils)")
	}
	out, err := exec.CommandContext(t.Context(), io, "-f", "qcow2", "-c", "write -P 7 3M 64k", "-c", "read -P 7 3M 64k", overlay).CombinedOutput()
	if err != nil || strings.Contains(string(out), "failed") {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	qemuImg(t, "check", "-f", "qcow2", overlay)
	if b, _ := os.ReadFile(base); !strings.HasPrefix(string(b), "base content\x00") || len(b) != 1<<20 {
		t.Error("the base was written")
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, err := range map[string]error{
		"zero":     Create(filepath.Join(dir, "a"), "/b", 0),
		"sector":   Create(filepath.Join(dir, "a"), "/b", 513),
		"large":    Create(filepath.Join(dir, "a"), "/b", MaxBytes+512),
		"relative": Create(filepath.Join(dir, "a"), "b", 512),
		"long":     Create(filepath.Join(dir, "a"), "/"+strings.Repeat("b", maxNameBytes), 512),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	path := filepath.Join(dir, "a")
	if err := Create(path, "/b", 512); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, "/b", 512); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create: %v; a disk would be lost", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d files left, want 1", len(left))
	}
}
