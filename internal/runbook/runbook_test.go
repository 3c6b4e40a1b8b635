package runbook

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

var pages = []Page{ClockOff, DiskFull, LostHost, StoreRestore, StuckOperation, UpgradeRollback}

// TestPagesExist holds that a named page is there, both in the source tree and, once installed, where the package puts it.
func TestPagesExist(t *testing.T) {
	installed := t.TempDir()
	for _, p := range pages {
		if got := p.below(installed); got != filepath.Join(Source, string(p)) {
			t.Errorf("%s, not installed: %s", string(p), got)
		}
		if err := os.WriteFile(filepath.Join(installed, string(p)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := p.below(installed); got != filepath.Join(installed, string(p)) {
			t.Errorf("%s, installed: %s", string(p), got)
		}
		if _, err := os.Stat(filepath.Join(root, Source, string(p))); err != nil {
			t.Error(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(root, "packaging/nfpm.yaml"))
	if want := "  - src: " + Source + "\n    dst: " + Installed + "\n    type: tree\n"; err != nil || !strings.Contains(string(raw), want) {
		t.Errorf("the package has not %q, %v", want, err)
	}
}

// TestOnePlace holds that no other code names the folders.
func TestOnePlace(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		if strings.Contains(string(raw), Source) && filepath.Base(path) != "runbook.go" {
			t.Errorf("%s names %s itself", path, Source)
		}
		return nil
	})
	if err != nil || seen < 100 {
		t.Errorf("%d files, %v", seen, err)
	}
}
