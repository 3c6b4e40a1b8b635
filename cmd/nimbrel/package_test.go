package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstallationRestartsInOrder runs the package's script with a systemctl that writes down what it is told: an upgrade
// restarts the server first, a way back the agent, and nothing is started that did not run.
func TestInstallationRestartsInOrder(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("no dpkg, which compares versions:", err)
	}
	const server, agent = "try-restart nimbrel-server.service", "try-restart nimbrel-agent.service"
	for _, c := range []struct {
		name      string
		arguments []string
		version   string
		want      []string
	}{
		{"first", []string{"configure", ""}, "1.2.0", []string{"daemon-reload", server, agent}},
		{"upgrade", []string{"configure", "1.9.0"}, "1.10.0", []string{"daemon-reload", server, agent}},
		{"same", []string{"configure", "1.9.0"}, "1.9.0", []string{"daemon-reload", server, agent}},
		{"back", []string{"configure", "1.10.0"}, "1.9.0", []string{"daemon-reload", agent, server}},
		{"back to a day", []string{"configure", "1.0.0"}, "0~20261124+5b05930", []string{"daemon-reload", agent, server}},
		{"undone", []string{"abort-upgrade", "1.10.0"}, "1.9.0", nil},
	} {
		if got := installed(t, c.version, c.arguments...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// installed is what the script tells systemctl when the package of a version is there.
func installed(t *testing.T, version string, arguments ...string) []string {
	t.Helper()
	raw, err := os.ReadFile("../../packaging/scripts/postinstall.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	told, script := filepath.Join(dir, "told"), strings.ReplaceAll(string(raw), "/run/systemd/system", dir)
	for name, text := range map[string]string{
		"systemctl": "#!/bin/sh\necho \"$@\" >>" + told + "\n", "dpkg-query": "#!/bin/sh\nprintf %s " + version + "\n", "postinst": script,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{filepath.Join(dir, "postinst")}, arguments...)...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", arguments, err, out)
	}
	lines, err := os.ReadFile(told)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(lines)), "\n")
}

// TestRunbooksLeaveRestartsToThePackage holds that no runbook restarts again what an installation has just restarted.
func TestRunbooksLeaveRestartsToThePackage(t *testing.T) {
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	installs := 0
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllStringSubmatch(string(raw), -1) {
			if !strings.Contains(m[1], "apt-get install") || !strings.Contains(m[1], "nimbrel") {
				continue
			}
			installs++
			if strings.Contains(m[1], "systemctl restart nimbrel") {
				t.Errorf("%s restarts what the package's installation restarts:\n%s", filepath.Base(page), m[1])
			}
		}
	}
	if installs < 2 {
		t.Errorf("%d installations found", installs)
	}
}
