package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFindingsNameTheirFix: whatever is not well says what to do, and what stands in for it when something does.
func TestFindingsNameTheirFix(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // nothing is installed
	found := Examine(t.Context(), Options{StateDir: filepath.Join(t.TempDir(), "not", "made"), Port: freePort(t)})
	if len(found) != len(probes) {
		t.Errorf("%d findings of %d probes", len(found), len(probes))
	}
	verdicts := map[string]Verdict{}
	for _, f := range found {
		verdicts[f.Name] = f.Verdict
		if f.Found == "" || strings.Contains(f.Found, "\n") {
			t.Errorf("%s found %q", f.Name, f.Found)
		}
		if f.Verdict != OK && f.Fix == "" || f.Verdict == Fallback && f.Instead == "" || f.Verdict == OK && f.Fix+f.Instead != "" {
			t.Errorf("%+v", f)
		}
	}
	for _, name := range []string{"qemu", "qemu-img", "accelerator"} {
		if verdicts[name] != Missing && verdicts["system"] == OK {
			t.Errorf("%s is %s without any program", name, verdicts[name])
		}
	}
	if verdicts["aws cli"] != Fallback || verdicts["ports"] != OK || Works(found) && verdicts["system"] == OK {
		t.Errorf("verdicts %v", verdicts)
	}
}

func TestPortsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := Options{Port: l.Addr().(*net.TCPAddr).Port}
	if f := ports(t.Context(), o); f.Verdict != Missing || !strings.Contains(f.Found, l.Addr().String()) {
		t.Errorf("a port in use is %+v", f)
	}
	o.Serving = true
	if f := ports(t.Context(), o); f.Verdict != OK {
		t.Errorf("the server's own port is %+v", f)
	}
}

// TestMeasuringLeavesNothing holds that the disk is as it was.
func TestMeasuringLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if f := diskSync(t.Context(), Options{StateDir: filepath.Join(dir, "below")}); f.Verdict == Missing || !strings.Contains(f.Found, dir) {
		t.Errorf("found %+v", f)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestOldAWSIsTold(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	for version, want := range map[string]Verdict{"2.9.19": Fallback, "2.13.0": OK, "1.45.11": OK, "1.27.1": Fallback} {
		script := "#!/bin/sh\necho aws-cli/" + version + " Python/3.11\n"
		if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if f := awsCLI(t.Context(), Options{}); f.Verdict != want {
			t.Errorf("aws %s is %+v, want %s", version, f, want)
		}
	}
}

// TestConversion holds that what the converter says is what is found.
func TestConversion(t *testing.T) {
	for want, convert := range map[Verdict]func(context.Context) error{
		OK: func(context.Context) error { return nil }, Fallback: nil,
		Missing: func(context.Context) error { return errors.New("install system call filter: no such thing") },
	} {
		f := conversion(t.Context(), Options{Convert: convert})
		if f.Verdict != want || want == Missing && !strings.Contains(f.Found, "no such thing") {
			t.Errorf("found %+v, want %s", f, want)
		}
	}
}

// TestCommand holds the exit and that JSON is all that is printed.
func TestCommand(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	cmd := Command(func(context.Context) error { return nil })
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"--fake", "--json", "--port", port, "--state-dir", t.TempDir()})
	if err := cmd.ExecuteContext(context.Background()); !errors.Is(err, ErrMissing) {
		t.Errorf("error %v with a port in use", err)
	}
	var found []Finding
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || len(found) < 5 || len(found) >= len(probes) {
		t.Errorf("%d findings, %v: %s", len(found), err, out.String())
	}
}

// freePort is the first of three that nobody has.
func freePort(t *testing.T) int {
	t.Helper()
	for port := 20000; port < 60000; port += 10 {
		if ports(t.Context(), Options{Port: port}).Verdict == OK {
			return port
		}
	}
	t.Fatal("no three free ports in a row")
	return 0
}
