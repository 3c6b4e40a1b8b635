package e2e

import (
	"flag"
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
	if err := flag.Set("test.parallel", "4"); err != nil { // most of a test is waiting; -parallel still decides when given
		panic(err)
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
	if err := build("nimbrel", "./cmd/nimbrel", "test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build compiles a command of this module into binaries, as this test was compiled: what that has left in the build cache is
// used, and only the linking is left to do.
func build(name, pkg, version string) error {
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w -X main.version="+version, "-o", filepath.Join(binaries, name), pkg)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return nil
}

func nimbrelPath() string { return filepath.Join(binaries, "nimbrel") }
