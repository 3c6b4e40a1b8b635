package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostIDIsKept: a host is its state directory's, whatever it is called.
func TestHostIDIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := hostID(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "another"} {
		f := agentFlags{stateDir: dir, driver: "fake", logLevel: "info", name: name}
		id, err := hostID(f.stateDir)
		if err != nil || id != first {
			t.Fatalf("host named %s is %s, %v; want %s", name, id, err, first)
		}
		if o, err := f.options(id); err != nil || o.ID != first || o.Name != name {
			t.Errorf("options %s, %s, %v", o.ID, o.Name, err)
		}
	}
}

// TestIdentityThatCannotBeRead: a host that has joined and whose identity is damaged is not told to join as if it had not.
func TestIdentityThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	f := agentFlags{stateDir: dir}
	read := func() string {
		t.Helper()
		_, err := f.identity(t.Context(), "h-1")
		if err == nil {
			t.Fatal("an identity is read, there is none")
		}
		return err.Error()
	}
	if got := read(); !strings.Contains(got, "has not joined") {
		t.Errorf("without an identity: %s", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "target.key", "target.pem"} {
		if err := os.WriteFile(filepath.Join(dir, "identity", name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(); strings.Contains(got, "has not joined") || !strings.Contains(got, "nimbrel token --host") {
		t.Errorf("with a damaged identity: %s", got)
	}
}
