package inventory

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSeesFilesComeAndGo(t *testing.T) {
	dir := t.TempDir()
	before := Take(Options{Folders: []string{dir}})
	if diff := under(dir, Diff(before, Take(Options{Folders: []string{dir}}))); len(diff) != 0 {
		t.Fatalf("an unchanged folder differs: %v", diff)
	}
	path := filepath.Join(dir, "left")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := under(dir, Diff(before, Take(Options{Folders: []string{dir}}))); !slices.Equal(diff, []string{"+ file " + path}) {
		t.Errorf("diff %v", diff)
	}
}

// under keeps the lines of a folder: the rest of the machine may change meanwhile.
func under(dir string, diff []string) []string {
	return slices.DeleteFunc(diff, func(line string) bool { return !strings.Contains(line, dir) })
}

func TestDiff(t *testing.T) {
	got := Diff(Inventory{"a": "1", "b": "1", "c": ""}, Inventory{"a": "1", "b": "2", "d": ""})
	if want := []string{"+ d", "- c", "~ b: 1 is now 2"}; !slices.Equal(got, want) {
		t.Errorf("Diff = %q, want %q", got, want)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	w := NewWatch(Options{Folders: []string{dir}})
	for _, path := range []string{ours, theirs} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mine, others := w.Changes(func(line string) bool { return strings.HasSuffix(line, ours) })
	if !slices.Equal(mine, []string{"+ file " + ours}) || !slices.Equal(under(dir, others), []string{"+ file " + theirs}) {
		t.Errorf("changes %v and %v by others", mine, under(dir, others))
	}
}
