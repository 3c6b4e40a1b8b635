package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nimbrel runs a command line of the whole program.
func nimbrel(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestConfigShowsSources holds that each setting shows its value and where it comes from, and no secret.
func TestConfigShowsSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(file, []byte("zone = \"z-1\"\nvcpus = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIMBREL_JOIN", "fingerprint.hunter2")
	t.Setenv("NIMBREL_ZONE", "z-2")
	text, err := nimbrel(t, "config", "agent", "--config", file, "--name", "n-1", "--json")
	var shown []shownSetting
	if err != nil || json.Unmarshal([]byte(text), &shown) != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	got := map[string]shownSetting{}
	for _, s := range shown {
		got[s.Name] = s
	}
	for name, want := range map[string]shownSetting{
		"name": {Value: "n-1", From: fromFlag}, "zone": {Value: "z-2", From: fromVariable}, "vcpus": {Value: 3.0, From: fromFile},
		"driver": {Value: "qemu", From: fromDefault}, "join": {Value: redacted, From: fromVariable},
	} {
		if got[name].Value != want.Value || got[name].From != want.From {
			t.Errorf("%s is %v from %s, want %v from %s", name, got[name].Value, got[name].From, want.Value, want.From)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Error("a secret is shown")
	}
	if got["state-dir"].Variable != "NIMBREL_AGENT_STATE_DIR" {
		t.Errorf("variable of state-dir is %q", got["state-dir"].Variable)
	}
}

// TestConfigRefusesWhatTheDaemonRefuses: a file with an unknown key is no settings.
func TestConfigRefusesWhatTheDaemonRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(file, []byte("regoin = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nimbrel(t, "config", "server", "--config", file); err == nil || !strings.Contains(err.Error(), `unknown key "regoin"`) {
		t.Errorf("error %v", err)
	}
}

// TestPackagedConfigs: the files that the package installs are settings of their daemons, and change no default unseen.
func TestPackagedConfigs(t *testing.T) {
	for daemon, wants := range map[string][]string{"server": {"state-dir", "listen", "link"}, "agent": {"state-dir", "driver"}} {
		path := filepath.Join("../../packaging/config", daemon+".toml")
		text, err := nimbrel(t, "config", daemon, "--config", path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no setting %s", path, want)
			}
		}
		uncommented(t, daemon, path)
	}
}

// uncommented holds that each line that a person may take the comment sign from is a setting too.
func uncommented(t *testing.T, daemon, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(raw)) {
		if setting, found := strings.CutPrefix(line, "#"); found && !strings.HasPrefix(setting, " ") && strings.Contains(setting, " = ") {
			lines = append(lines, setting)
		}
	}
	whole := filepath.Join(t.TempDir(), "whole.toml")
	if err := os.WriteFile(whole, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := nimbrel(t, "config", daemon, "--config", whole); err != nil || strings.Count(text, "  file  ") != len(lines) || len(lines) < 5 {
		t.Errorf("%s without comment signs: %v, %d lines\n%s", path, err, len(lines), text)
	}
}
