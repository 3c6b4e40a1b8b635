package tidy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSpec holds that whatever docs/SPEC.md names as enforcing a promise exists, and that no number is used twice.
func TestSpec(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "docs/SPEC.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range checkSpec(string(raw), enforcers(t)) {
		t.Error(problem)
	}
}

var (
	specRow   = regexp.MustCompile(`^\| (S-\d+) \|`)
	specNamed = regexp.MustCompile("`([a-z0-9/]+\\.[A-Za-z0-9_]+)`")
)

// checkSpec reports rows of promises that name what is not among exists, name nothing, or repeat a number.
func checkSpec(text string, exists map[string]bool) (found []problem) {
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		row := specRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		if seen[row[1]] {
			found = append(found, problem{row[1], "the number is used twice"})
		}
		seen[row[1]] = true
		cells := strings.Split(strings.TrimSpace(line), "|")
		proof := cells[len(cells)-2]
		named := specNamed.FindAllStringSubmatch(proof, -1)
		if len(named) == 0 && !strings.Contains(proof, "*pending*") {
			found = append(found, problem{row[1], "names nothing that enforces it, and is not pending"})
		}
		for _, n := range named {
			if !exists[n[1]] {
				found = append(found, problem{row[1], n[1] + " does not exist"})
			}
		}
	}
	if len(seen) == 0 {
		found = append(found, problem{"SPEC", "has no promises"})
	}
	return found
}

var (
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]*)\(`)
	demoCheck    = regexp.MustCompile(`\.check\("([a-z_]+)"`)
	figure       = regexp.MustCompile(`figure torture\.([a-z_]+) `)
	guestCheck   = regexp.MustCompile(`\.guest\(ctx, "([a-z_]+)"`)
	clientFolder = regexp.MustCompile(`^test/clients/([a-z0-9]+)/(?:main\.go|walk\.[a-z]+)$`)
)

// enforcers are the tests of the tree as package.TestName, the checks of the demonstration as demo.name, of the Debian image
// as cloudinit.firmware, the clients' walks as clients.name, and the figures of the torture, which fails unless they are
// 0, as torture.name.
func enforcers(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, path := range trackedFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(path))
		pattern, prefix := testFunction, dir
		switch {
		case strings.HasSuffix(path, "_test.go"):
		case dir == "test/demo" && strings.HasSuffix(path, ".go"):
			pattern, prefix = demoCheck, "demo"
		case dir == "test/torture":
			pattern, prefix = figure, "torture"
		case dir == "test/cloudinit" && strings.HasSuffix(path, ".go"):
			pattern, prefix = guestCheck, "cloudinit"
		case clientFolder.MatchString(path):
			all["clients."+clientFolder.FindStringSubmatch(path)[1]] = true
			continue
		default:
			continue
		}
		raw, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			continue // deleted in the working tree
		}
		for _, m := range pattern.FindAllStringSubmatch(string(raw), -1) {
			all[fmt.Sprintf("%s.%s", prefix, m[1])] = true
		}
	}
	return all
}

func TestSpecBites(t *testing.T) {
	exists := map[string]bool{"a/b.TestX": true}
	for name, text := range map[string]string{
		"absent test":   "| S-1 | p | `a/b.TestY` |\n",
		"no proof":      "| S-1 | p | |\n",
		"twice":         "| S-1 | p | `a/b.TestX` |\n| S-1 | q | *pending* |\n",
		"nothing there": "no rows\n",
	} {
		if found := checkSpec(text, exists); len(found) != 1 {
			t.Errorf("%s: %v", name, found)
		}
	}
	if found := checkSpec("| S-1 | p | `a/b.TestX`; more is *pending* |\n", exists); len(found) != 0 {
		t.Errorf("refused: %v", found)
	}
}
