package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// hostRow is one of `nimbrel hosts`.
type hostRow struct{ HostId, Name, State string }

// TestHostIdentity: a host is its identity and not its name, and there is one of it. A second agent on its directory or
// with a copy of its identity is refused with what to do, and the first goes on; under another name the host is the same.
func TestHostIdentity(t *testing.T) {
	t.Parallel()
	c := newCloud(t, claimPlace(t))
	c.up("--fake", "--hosts", "1")
	before := into[[]hostRow](c, "hosts")
	if len(before) != 1 || before[0].State != "up" {
		t.Fatalf("hosts %+v", before)
	}
	dir := filepath.Join(c.dir(), "hosts", "host-1")
	agent := func(stateDir, name string) (*exec.Cmd, string) {
		t.Helper()
		log := filepath.Join(c.tmp(), name+".log")
		out, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := nimbrelCommand("agent", "--state-dir", stateDir, "--name", name, "--driver", "fake", "--zone", "us-nimbrel-1a",
			"--server", "127.0.0.1:"+strconv.Itoa(c.port+1))
		cmd.Env, cmd.Stdout, cmd.Stderr = c.environment(), out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd, log
	}
	says := func(log string, words ...string) func() error {
		return func() error {
			text, err := os.ReadFile(log)
			for _, word := range words {
				if err == nil {
					err = expect(strings.Contains(string(text), word), "%q is not in %s", word, text)
				}
			}
			return err
		}
	}
	second, log := agent(dir, "same-directory")
	if err := second.Wait(); err == nil {
		t.Error("a second agent on one directory ended well")
	}
	c.eventually("it says what to do", says(log, "another agent runs on this state directory", "stop it first"))

	stolen := filepath.Join(c.root, "copy")
	if err := os.CopyFS(stolen, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	thief, log := agent(stolen, "copy")
	c.eventually("the copy is refused and says what to do", says(log, "identity in use", "stop the other host or join again under another name"))
	if now := into[[]hostRow](c, "hosts"); len(now) != 1 || now[0] != before[0] {
		t.Errorf("hosts %+v, were %+v", now, before)
	}
	if d := c.daemon("host-1"); !d.Running {
		t.Error("the first agent is gone")
	}
	thief.Process.Kill()
	thief.Wait()

	c.kill("host-1")
	_, log = agent(dir, "renamed")
	t.Cleanup(func() {
		if text, err := os.ReadFile(log); t.Failed() {
			t.Logf("the renamed agent: %s, %v", text, err)
		}
	})
	c.eventually("the host has its new name", func() error {
		now := into[[]hostRow](c, "hosts")
		return expect(len(now) == 1 && now[0].Name == "renamed" && now[0].State == "up" && now[0].HostId == before[0].HostId, "hosts %+v", now)
	})
	c.checkClean()
}
