package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPreflight: a machine that lacks something is told what, and what to do, in one line.
func TestPreflight(t *testing.T) {
	network := Options{Driver: DriverQEMU, DataPath: &DataPath{}}
	absent := filepath.Join(t.TempDir(), "tun")
	for name, c := range map[string]struct {
		o    Options
		euid int
		tun  string
		want string
	}{
		"not root":                 {Options{Driver: DriverQEMU}, 1000, os.DevNull, "run the agent as root, or with --driver fake"},
		"no tun":                   {network, 0, absent, "modprobe tun"},
		"tun is no device":         {network, 0, t.TempDir(), "the device and CAP_NET_ADMIN"},
		"fake needs nothing":       {Options{Driver: DriverFake}, 1000, absent, ""},
		"no network needs no tun":  {Options{Driver: DriverQEMU}, 0, absent, ""},
		"a machine with all of it": {network, 0, os.DevNull, ""},
	} {
		err := preflight(c.o, c.euid, c.tun)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v; want one line with %q", name, err, c.want)
		}
	}
}

// TestRunWithoutQEMU goes through Run.
func TestRunWithoutQEMU(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: without it, that is what is refused")
	}
	t.Setenv("PATH", t.TempDir())
	err := Run(context.Background(), Options{ID: hostID, StateDir: filepath.Join(t.TempDir(), "state")})
	if err == nil || !strings.Contains(err.Error(), "install Debian's package qemu-system-x86") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Run = %v; want one line that names the package", err)
	}
}

// TestRunWithoutRoot goes through Run, as any user.
func TestRunWithoutRoot(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := syscall.Seteuid(nobody); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := syscall.Seteuid(0); err != nil {
				t.Fatal(err)
			}
		}()
	}
	err := Run(context.Background(), Options{ID: hostID, StateDir: state})
	if err == nil || !strings.Contains(err.Error(), "run the agent as root") {
		t.Errorf("Run = %v", err)
	}
}
