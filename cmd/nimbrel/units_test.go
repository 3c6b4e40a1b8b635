package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestUnits holds what the units run, and that a stop of the agent's ends the agent alone.
func TestUnits(t *testing.T) {
	for name, wants := range map[string][]string{
		"nimbrel-server.service": {"Restart=on-failure", "StateDirectory=nimbrel"},
		"nimbrel-agent.service":  {"KillMode=process", "OOMPolicy=continue", "Restart=always"},
	} {
		raw, err := os.ReadFile(filepath.Join("../../packaging/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(raw), "\n")
		for _, want := range wants {
			if !contains(lines, want) {
				t.Errorf("%s has no line %s", name, want)
			}
		}
		for _, line := range lines {
			if command, found := strings.CutPrefix(line, "ExecStart=/usr/bin/"); found {
				if err := understood(command, false); err != nil {
					t.Errorf("%s: %q: %v", name, command, err)
				}
			}
		}
	}
}

// TestPackageSourcesExist reads what the Debian package is made of; what `make deb` builds itself is left out.
func TestPackageSourcesExist(t *testing.T) {
	raw, err := os.ReadFile("../../packaging/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)(?:src|postinstall|preremove): (\S+)`).FindAllStringSubmatch(string(raw), -1)
	for _, m := range found {
		if strings.HasPrefix(m[1], "bin/") || strings.HasPrefix(m[1], "build/") {
			continue
		}
		if _, err := os.Stat(filepath.Join("../..", m[1])); err != nil {
			t.Error(err)
		}
	}
	if len(found) < 10 {
		t.Errorf("%d sources found", len(found))
	}
}

func contains(lines []string, want string) bool {
	for _, line := range lines {
		if line == want {
			return true
		}
	}
	return false
}
