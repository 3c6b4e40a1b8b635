package tidy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// generated folders hold what a generator wrote; only their size as blobs is judged.
func generated(path string) bool {
	dir := filepath.Dir(path)
	return strings.HasSuffix(dir, "gen") || strings.HasSuffix(path, "_bpfel.go") || strings.HasSuffix(path, "_bpfeb.go")
}

func TestTidy(t *testing.T) {
	used := make([]bool, len(exceptions))
	for _, p := range checkTree(t) {
		if !excepted(p, used) {
			t.Error(p)
		}
	}
	for i, e := range exceptions {
		if !used[i] {
			t.Errorf("exception %q is no longer needed: remove it", e)
		}
	}
}

func excepted(p problem, used []bool) bool {
	for i, e := range exceptions {
		if strings.HasPrefix(p.String(), e) {
			used[i] = true
			return true
		}
	}
	return false
}

func checkTree(t *testing.T) (found []problem) {
	t.Helper()
	for _, path := range trackedFiles(t) {
		raw, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			continue // deleted in the working tree, or a link to elsewhere
		}
		if len(raw) > blobBytesMax && !generated(path) {
			found = append(found, problem{path, "file over 1 MiB: keep large data out of the repository"})
		}
		if generated(path) || strings.Contains(path, "testdata/") || !isText(raw) {
			continue
		}
		found = append(found, checkText(path, string(raw))...)
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			found = append(found, checkGo(path, string(raw))...)
		}
	}
	return found
}

// trackedFiles asks git, and walks the tree where there is none (an unpacked archive).
func trackedFiles(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil {
		return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	}
	var paths []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(root, path)
			paths = append(paths, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func isText(raw []byte) bool {
	return !strings.Contains(string(raw[:min(len(raw), 8000)]), "\x00")
}

// TestRulesBite feeds each rule something that it must refuse, and something that it must not.
func TestRulesBite(t *testing.T) {
	long := "package x\n\nfunc f() {\n" + strings.Repeat("\tg()\n", functionLinesMax) + "}\n"
	for name, found := range map[string][]problem{
		"clock in a pure package": checkGo("compute/fit/x.go", "package fit\n\nimport \"time\"\n\nvar _ = time.Now()\n"),
		"background context":      checkGo("vpc/server/x.go", "package server\n\nvar _ = context.Background()\n"),
		"exit in a library":       checkGo("dev/x.go", "package dev\n\nfunc f() { os.Exit(1) }\n"),
		"long function":           checkGo("dev/x.go", long),
		"stray log key":           checkGo("dev/x.go", "package dev\n\nfunc f() { s.log.Warn(\"x\", \"err\", err, \"stray\", 1) }\n"),
		"computed log key":        checkGo("dev/x.go", "package dev\n\nfunc f() { slog.InfoContext(ctx, \"x\", name, 1) }\n"),
		"marker":                  checkText("dev/x.go", "// FIX"+"ME later\n"),
		"long file":               checkText("dev/x.go", strings.Repeat("\n", fileLinesMax)),
		"long line":               checkText("dev/x.go", "//"+strings.Repeat("a", lineRunesMax)),
	} {
		if len(found) != 1 {
			t.Errorf("%s: %d findings: %v", name, len(found), found)
		}
	}
	for name, found := range map[string][]problem{
		"log keys":            checkGo("dev/x.go", "package dev\n\nfunc f() { o.Log.With(\"host\", h).Error(\"x\", obs.KeyError, err) }\n"),
		"exit in main":        checkGo("cmd/nimbrel/main.go", "package main\n\nfunc main() { os.Exit(1) }\n"),
		"clock with an owner": checkGo("compute/server/x.go", "package server\n\nvar _ = time.Now()\n"),
	} {
		if len(found) != 0 {
			t.Errorf("%s: refused: %v", name, found)
		}
	}
}
