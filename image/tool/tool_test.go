package tool

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestMain lets the test binary be the converting process that WorkerCommand starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[2] == workerName {
		cmd := Command()
		cmd.SetArgs(os.Args[2:])
		if cmd.Execute() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestProbeWorker(t *testing.T) {
	if err := ProbeWorker(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"build"}, `"out" not set`},
		{[]string{"build", "--out", t.TempDir(), "--format", "vmdk"}, "choose raw or qcow2"},
		{[]string{"build", "--out", t.TempDir(), "--size-mib", "1"}, "between 256"},
		{[]string{"build", "extra", "--out", t.TempDir()}, "unknown command"},
	} {
		cmd := Command()
		var out bytes.Buffer
		cmd.SetArgs(c.args)
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}
