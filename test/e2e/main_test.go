package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binaries is the folder of the built commands. A test process in a machine of its own gets its parent's.
var binaries string

const binariesVariable = "NIMBREL_E2E_BINARIES"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if isInit() {
		return initMain()
	}
	if binaries = os.Getenv(binariesVariable); binaries != "" {
		return m.Run()
	}
	var err error
	if binaries, err = os.MkdirTemp("", "nimbrel-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	if err := build("nimbrel", "./cmd/nimbrel"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build compiles a command of this module into binaries, as a release is built: without cgo.
func build(name, pkg string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-buildvcs=false", "-o", filepath.Join(binaries, name)}, flags...), pkg)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return nil
}

func nimbrelPath() string { return filepath.Join(binaries, "nimbrel") }
