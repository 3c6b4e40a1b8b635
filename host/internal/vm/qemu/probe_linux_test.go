package qemu

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
}

func newDriver(t *testing.T) *Driver {
	t.Helper()
	d, err := New(Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestProbe boots the self-test guest. Whichever accelerator is chosen, a guest printed its marker on it.
func TestProbe(t *testing.T) {
	needQEMU(t)
	d := newDriver(t)
	c, err := d.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", c)
	if c.Accelerator != "kvm" && (c.Accelerator != "tcg" || c.Reason == "") {
		t.Errorf("accelerator %q, reason %q: want kvm, or tcg with the reason", c.Accelerator, c.Reason)
	}
	if c.Simulated || !strings.Contains(c.Version, "QEMU") {
		t.Errorf("capabilities %+v", c)
	}
}

// TestVerdictIsKeptPerBoot plants verdicts: one of this boot is believed, one of another boot or QEMU is not.
func TestVerdictIsKeptPerBoot(t *testing.T) {
	if vm.BootID() == "" {
		t.Skip("system tells no boot id")
	}
	d := newDriver(t)
	d.options.Binary = "/nonexistent/qemu" // so that a fresh judgement cannot succeed
	plant := func(v verdict) {
		b, _ := json.Marshal(v)
		if err := os.WriteFile(filepath.Join(d.options.StateDir, "accelerator.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := verdict{BootID: vm.BootID(), Version: "QEMU 9", Accelerator: accelerator{"kvm", "host"}}
	plant(want)
	if got, err := d.options.judge(t.Context(), "QEMU 9"); err != nil || got != want {
		t.Errorf("judge = %+v, %v; want the kept verdict", got, err)
	}
	if got, err := d.options.judge(t.Context(), "QEMU 10"); err == nil {
		t.Errorf("verdict of another QEMU was believed: %+v", got)
	}
	want.BootID = "another boot"
	plant(want)
	if got, err := d.options.judge(t.Context(), "QEMU 9"); err == nil {
		t.Errorf("verdict of another boot was believed: %+v", got)
	}
}

// TestSelfTestBites runs a sector that halts at once: an accelerator that prints nothing is refused.
func TestSelfTestBites(t *testing.T) {
	needQEMU(t)
	good := selfTestSector
	defer func() { selfTestSector = good }()
	selfTestSector = bytes.Clone(good)
	copy(selfTestSector, []byte{0xfa, 0xf4}) // cli; hlt
	err := newDriver(t).options.selfTest(t.Context(), accelerator{"tcg", "Nehalem"}, 3*time.Second)
	if err == nil || !strings.Contains(err.Error(), "printed nothing") {
		t.Errorf("self-test of a halted guest: %v", err)
	}
}

// TestSectorMatchesSource assembles boot.S again and compares.
func TestSectorMatchesSource(t *testing.T) {
	for _, program := range []string{"clang", "llvm-objcopy"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is not installed (packages clang, llvm)")
		}
	}
	path := filepath.Join(t.TempDir(), "boot.bin")
	if out, err := exec.CommandContext(t.Context(), "selftest/build.sh", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	built, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, selfTestSector) {
		t.Error("selftest/boot.bin is not what boot.S assembles to: run go generate")
	}
}
