package tidy

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestParsers holds that every parser of docs/parsers.md has its fuzzers, that every fuzzer of the tree is listed there, and
// that "make fuzz" runs all of them.
func TestParsers(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "docs/parsers.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for name := range enforcers(t) {
		if strings.Contains(name, ".Fuzz") {
			there[name] = true
		}
	}
	if len(there) < 30 {
		t.Fatalf("only %d fuzzers were found", len(there))
	}
	for _, problem := range checkParsers(string(raw), there) {
		t.Error(problem)
	}
	for _, problem := range missing("make fuzz", runs(t), there) {
		t.Error(problem)
	}
}

// runs are the fuzzers that "make fuzz" would run.
func runs(t *testing.T) map[string]bool {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash")
	}
	list := exec.CommandContext(t.Context(), bash, "scripts/run.sh", "fuzzers")
	list.Dir = root
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("list fuzzers: %v\n%s", err, out)
	}
	all := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		folder, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[strings.TrimPrefix(folder, "./")+"."+name] = true
	}
	return all
}

// checkParsers compares the table's fuzzers with those that exist.
func checkParsers(text string, there map[string]bool) (found []problem) {
	listed := map[string]bool{}
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || strings.Contains(line, "---") || strings.TrimSpace(cells[1]) == "input" {
			continue
		}
		named := specNamed.FindAllStringSubmatch(cells[2], -1)
		if len(named) == 0 {
			found = append(found, problem{strings.TrimSpace(cells[1]), "has no fuzzer"})
		}
		for _, n := range named {
			listed[n[1]] = true
			if !there[n[1]] {
				found = append(found, problem{strings.TrimSpace(cells[1]), n[1] + " does not exist"})
			}
		}
	}
	return append(found, missing("docs/parsers.md", listed, there)...)
}

// missing reports the wanted that are not had.
func missing(where string, have, want map[string]bool) (found []problem) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !have[name] {
			found = append(found, problem{where, "leaves out " + name})
		}
	}
	return found
}

func TestParsersBites(t *testing.T) {
	there := map[string]bool{"a/b.FuzzX": true}
	for name, text := range map[string]string{
		"absent fuzzer":   "| in | `a/b.FuzzX`, `a/b.FuzzY` |\n",
		"no fuzzer":       "| in | `a/b.FuzzX` |\n| other | none yet |\n",
		"unlisted fuzzer": "| input | fuzzers |\n",
	} {
		if found := checkParsers(text, there); len(found) != 1 {
			t.Errorf("%s: %v", name, found)
		}
	}
	if found := missing("make fuzz", map[string]bool{}, there); len(found) != 1 {
		t.Errorf("not run: %v", found)
	}
	if found := checkParsers("| in | `a/b.FuzzX` |\n", there); len(found) != 0 {
		t.Errorf("refused: %v", found)
	}
}
