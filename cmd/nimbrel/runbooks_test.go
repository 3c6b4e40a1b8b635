package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Where people are told commands.
var (
	fence  = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	inline = regexp.MustCompile("`(?:sudo )?(nimbrel [^`]*)`")
)

// TestRunbookCommandsExist reads every command of nimbrel in the runbooks, the README and the check-lists: the command, its flags and the number of its
// arguments must be those of the program.
func TestRunbookCommandsExist(t *testing.T) {
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(pages) < 11 {
		t.Fatalf("%d runbooks, %v", len(pages), err)
	}
	others, err := filepath.Glob("../../docs/checklists/*.md")
	if err != nil {
		t.Fatal(err)
	}
	runbooks := len(pages)
	for i, page := range append(append(pages, "../../README.md", "../../docs/EC2.md"), others...) {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		commands, mentions := commandsOf(string(raw))
		if len(commands)+len(mentions) == 0 && i <= runbooks {
			t.Errorf("%s names no command of nimbrel", page)
		}
		for _, line := range commands {
			if err := understood(line, false); err != nil {
				t.Errorf("%s: %q: %v", filepath.Base(page), line, err)
			}
		}
		for _, line := range mentions {
			if err := understood(line, true); err != nil {
				t.Errorf("%s: %q: %v", filepath.Base(page), line, err)
			}
		}
	}
}

// TestFixesNameCommandsThatExist reads the commands that errors and help name in backquotes.
func TestFixesNameCommandsThatExist(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range inline.FindAllStringSubmatch(string(raw), -1) {
			seen++
			if err := understood(m[1], true); err != nil {
				t.Errorf("%s: `%s`: %v", path, m[1], err)
			}
		}
		return nil
	})
	if err != nil || seen < 20 {
		t.Errorf("%d commands found, %v", seen, err)
	}
}

// TestUnderstoodBites holds that what does not exist is found.
func TestUnderstoodBites(t *testing.T) {
	for _, line := range []string{
		"nimbrel hosts remove HOST", "nimbrel hosts drain", "nimbrel hosts drain A B", "nimbrel ops --all", "nimbrel frobnicate",
		"nimbrel token --ttl soon", "nimbrel account quota A vcpu",
	} {
		if err := understood(line, line != "nimbrel hosts drain"); err == nil {
			t.Errorf("%q is taken for a command", line)
		}
	}
	commands, mentions := commandsOf("say `nimbrel hosts`:\n```\nsudo nimbrel ops | head\ndf -h\n```\n")
	if len(commands) != 1 || commands[0] != "nimbrel ops" || len(mentions) != 1 {
		t.Errorf("found %q and %q", commands, mentions)
	}
}

// commandsOf are nimbrel's commands of a page: those in fences, to be run as they are, and those that the text mentions.
func commandsOf(text string) (found, mentions []string) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(m[1]) {
			line, _, _ = strings.Cut(line, " #")
			for line := range strings.SplitSeq(line, ";") {
				line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "sudo "), "bin/")
				if strings.HasPrefix(line, "nimbrel ") {
					line, _, _ = strings.Cut(line, " | ")
					found = append(found, line)
				}
			}
		}
	}
	for _, m := range inline.FindAllStringSubmatch(text, -1) {
		mentions = append(mentions, m[1])
	}
	return found, mentions
}

// understood says whether the program would take a command line for one of its own. A mention may leave the arguments
// out, as in "see `nimbrel explain`".
func understood(line string, mention bool) error {
	words := strings.Fields(strings.ReplaceAll(line, "…", "X"))[1:]
	top := root()
	cmd, rest, err := top.Find(words)
	if err != nil {
		return err
	}
	switch {
	case cmd == top && len(words) == 1 && (words[0] == "--version" || words[0] == "--help"):
		return nil
	case cmd == top:
		return errors.New("no command")
	}
	cmd.InheritedFlags() // adds the parents' flags to what ParseFlags knows
	if err := cmd.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return err
	}
	args := cmd.Flags().Args()
	if cmd.HasSubCommands() && len(args) > 0 && cmd.HasParent() {
		return errors.New("no such subcommand: " + args[0])
	}
	if mention && len(args) == 0 {
		return nil
	}
	return cmd.ValidateArgs(args)
}
