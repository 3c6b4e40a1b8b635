// Command mutants breaks the program on purpose and expects its checks to see it.
//
// A mutant is a set of exact replacements in source files, built with `go test -overlay`, so that no file of the tree is
// touched. One that survives its checks fails the run, and so does one whose text is no longer in the file: then the
// mutant has to follow the code. Start with pure.go, the list for the store's pure core.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// mutant is one broken version of a package's code.
type mutant struct {
	name  string
	edits []edit
}

// edit replaces a text that is in the file exactly once. An empty old appends.
type edit struct{ file, old, new string }

// suite is a list of mutants and the check that each must fail.
type suite struct {
	pkg     string
	args    []string
	mutants []mutant
	// limit bounds one run of the check: a slower catch is none.
	limit time.Duration
}

func main() {
	only := flag.String("only", "", "run the mutants whose names contain this")
	limit := flag.Duration("limit", 0, "bound of one run, instead of the suite's")
	flag.Parse()
	if *limit != 0 {
		pure.limit = *limit
	}
	if err := pure.run(*only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func (s suite) run(only string) error {
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// The check has to pass on the code as it is, or a catch means nothing.
	if out, _, err := s.check(dir, nil); err != nil {
		return fmt.Errorf("the unbroken code fails: %w\n%s", err, out)
	}
	caught := 0
	for _, m := range s.mutants {
		if !strings.Contains(m.name, only) {
			continue
		}
		out, took, err := s.check(dir, m.edits)
		if _, failed := err.(*exec.ExitError); !failed {
			return fmt.Errorf("%s is not caught: %v\n%s", m.name, err, out)
		}
		fmt.Printf("mutant %-34s caught in %4.1f s: %s\n", m.name, took.Seconds(), reason(out))
		caught++
	}
	fmt.Printf("figure mutants.caught %d of %d\n", caught, caught)
	return nil
}

// check builds the package's tests with the edits, and runs them. Its error is an *exec.ExitError when they fail.
func (s suite) check(dir string, edits []edit) (out []byte, took time.Duration, err error) {
	overlay, err := writeOverlay(dir, edits)
	if err != nil {
		return nil, 0, err
	}
	binary := filepath.Join(dir, "check.test")
	build := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, s.pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return out, 0, fmt.Errorf("build: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	run := exec.CommandContext(ctx, binary, s.args...)
	run.Dir = s.pkg
	started := time.Now()
	out, err = run.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not ended after %v", s.limit)
	}
	return out, time.Since(started), err
}

// writeOverlay writes the edited files and the list of them that Go reads.
func writeOverlay(dir string, edits []edit) (string, error) {
	texts := map[string]string{}
	for _, e := range edits {
		text, known := texts[e.file]
		if !known {
			b, err := os.ReadFile(e.file)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		switch n := strings.Count(text, e.old); {
		case e.old == "":
			text += e.new
		case n != 1:
			return "", fmt.Errorf("%s has %d times what a mutant replaces: %q", e.file, n, e.old)
		default:
			text = strings.Replace(text, e.old, e.new, 1)
		}
		texts[e.file] = text
	}
	replace := map[string]string{}
	for file, text := range texts {
		path, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		replace[path] = filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, b, 0o600)
}

var failure = regexp.MustCompile(`(?m)^ *\w+_test\.go:\d+: (.*)$|^(panic: .*)$`)

// reason is the first line that says what failed.
func reason(out []byte) string {
	found := failure.FindSubmatch(out)
	if found == nil {
		return "failed"
	}
	return string(found[1]) + string(found[2])
}
