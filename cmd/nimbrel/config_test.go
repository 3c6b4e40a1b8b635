package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/svc/obs"
)

// fill parses a command line and fills its flags from a file's text and an environment.
func fill(t *testing.T, cmd *cobra.Command, args []string, file string, environment map[string]string) error {
	t.Helper()
	path := ""
	if file != "" {
		path = filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return settingsOf(cmd).load(path, func(name string) (string, bool) { v, ok := environment[name]; return v, ok })
}

func value(cmd *cobra.Command, flag string) string { return cmd.Flag(flag).Value.String() }

func TestSettingsPrecedence(t *testing.T) {
	cmd := serverCommand()
	file := "region = \"from-file-1\"\nzones = 5\nlisten = \"127.0.0.1:1\"\ninsecure = true\n"
	environment := map[string]string{"NIMBREL_REGION": "from-environment-1", "NIMBREL_ZONES": "7", "NIMBREL_OPERATOR_UID": "42"}
	if err := fill(t, cmd, []string{"--region", "from-flag-1"}, file, environment); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"region": "from-flag-1", "zones": "7", "listen": "127.0.0.1:1", "insecure": "true", "operator-uid": "42", "link": "127.0.0.1:8774",
	} {
		if got := value(cmd, flag); got != want {
			t.Errorf("--%s is %q, want %q", flag, got, want)
		}
	}
}

func TestSettingsOfAgent(t *testing.T) {
	cmd := agentCommand()
	environment := map[string]string{"NIMBREL_JOIN": "a.b", "NIMBREL_STATE_DIR": "/the/cloud's", "NIMBREL_AGENT_STATE_DIR": "/the/agent's"}
	if err := fill(t, cmd, nil, "dns-forwarder = [\"10.0.0.1:53\", \"10.0.0.2:53\"]\n", environment); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{"join": "a.b", "state-dir": "/the/agent's", "dns-forwarder": "[10.0.0.1:53,10.0.0.2:53]"} {
		if got := value(cmd, flag); got != want {
			t.Errorf("--%s is %q, want %q", flag, got, want)
		}
	}
}

func TestSettingsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		file        string
		environment map[string]string
		want        string
	}{
		"unknown key":    {file: "regoin = \"x\"\n", want: `unknown key "regoin"`},
		"table":          {file: "[region]\nx = 1\n", want: "key region"},
		"wrong type":     {file: "zones = \"3\"\n", want: "key zones"},
		"fraction":       {file: "zones = 3.5\n", want: "key zones"},
		"no TOML":        {file: "zones 3\n", want: "config.toml"},
		"wrong variable": {environment: map[string]string{"NIMBREL_ZONES": "three"}, want: "NIMBREL_ZONES"},
	} {
		err := fill(t, serverCommand(), nil, c.file, c.environment)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

// printed is what --print-config writes.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPrintedConfigParsesBack(t *testing.T) {
	for _, variable := range []string{"NIMBREL_CONFIG", "NIMBREL_JOIN", "NIMBREL_REGION", "NIMBREL_ZONES"} {
		if _, set := os.LookupEnv(variable); set {
			t.Setenv(variable, "") // restored afterwards
			os.Unsetenv(variable)
		}
	}
	for command, args := range map[string][]string{
		"server": {"--region", `odd "region"`, "--zones", "2", "--insecure", "--state-dir", "/x"},
		"agent":  {"--dns-forwarder", "10.0.0.1:53,10.0.0.2:53", "--vcpus", "3", "--uid-base", "0"},
	} {
		first := printed(t, append([]string{command, "--print-config"}, args...)...)
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(first), 0o600); err != nil {
			t.Fatal(err)
		}
		if second := printed(t, command, "--print-config", "--config", file); second != first {
			t.Errorf("%s: printed\n%s\nand with that as its file\n%s", command, first, second)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Setenv("NIMBREL_JOIN", "fingerprint.hushhush")
	if text := printed(t, "agent", "--print-config"); strings.Contains(text, "hushhush") || !strings.Contains(text, "# join is set") {
		t.Errorf("printed %s", text)
	}
	var log bytes.Buffer
	logger, err := obs.NewLogger(&log, "info")
	if err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand()
	s := settingsOf(cmd)
	if err := s.load("", os.LookupEnv); err != nil {
		t.Fatal(err)
	}
	s.record(logger)
	if text := log.String(); strings.Contains(text, "hushhush") || !strings.Contains(text, redacted) || !strings.Contains(text, `"log-level":"info"`) {
		t.Errorf("logged %s", text)
	}
}

// TestEveryFlagHasItsOwnVariable would find two flags of a daemon that one variable sets.
func TestEveryFlagHasItsOwnVariable(t *testing.T) {
	for _, cmd := range []*cobra.Command{serverCommand(), agentCommand()} {
		seen := map[string]string{}
		for _, f := range settingsOf(cmd).flags {
			name := variableOf(f)
			if other := seen[name]; other != "" || !strings.HasPrefix(name, "NIMBREL_") {
				t.Errorf("%s: %s sets --%s and --%s", cmd.Name(), name, other, f.Name)
			}
			seen[name] = f.Name
		}
		if len(seen) < 5 {
			t.Error("no flags")
		}
	}
}

// FuzzConfigFile reads any file: what is accepted prints as a file that means the same.
func FuzzConfigFile(f *testing.F) {
	f.Add("region = \"us-x-1\"\nzones = 5\ninsecure = true\n")
	f.Add("zones = [1, 2]\n")
	f.Add("zones = 99999999999999999999\nzones = 1\n")
	f.Add("[server]\nregion = \"x\"\n")
	f.Add("\"region\" = '''x\n'''\n\xff")
	f.Add("dns-forwarder = [\"a,b\", \"c\\\"d\", [1]]\n")
	dir := f.TempDir()
	load := func(t *testing.T, newCommand func() *cobra.Command, text string) (string, error) {
		path := filepath.Join(dir, "config.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := settingsOf(newCommand())
		if err := s.load(path, func(string) (string, bool) { return "", false }); err != nil {
			return "", err
		}
		printed, err := s.toml()
		if err != nil {
			t.Fatalf("print: %v", err)
		}
		return printed, nil
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, newCommand := range []func() *cobra.Command{serverCommand, agentCommand} {
			printed, err := load(t, newCommand, text)
			if err != nil {
				continue
			}
			again, err := load(t, newCommand, printed)
			if err != nil || printed != again {
				t.Fatalf("%q prints as %q, which prints as %q, %v", text, printed, again, err)
			}
		}
	})
}
