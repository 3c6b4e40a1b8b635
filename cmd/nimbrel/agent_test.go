package main

import (
	"path/filepath"
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
