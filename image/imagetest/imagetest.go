// Package imagetest gives tests the guest image and a plain QEMU to boot it in.
//
// Image builds the image once per machine and input, in the user's cache, and skips the test where that is impossible.
// Start boots a machine under emulation with user networking: no privileges, no bridge, everything on loopback and in
// the test's own directory, and gone when the test ends. It is also the yardstick for what our own driver adds.
//
// Deliberately absent: KVM (its presence proves nothing without a probe, and these tests ask what the image does), and
// more than one network interface.
package imagetest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/image/pack"
)

// buildLimit is generous: a cold build downloads the kernel and compiles the guest program's dependencies.
const buildLimit = 10 * time.Minute

// keep is how many images of different inputs stay in the cache: test runs of several branches may use it at once.
const keep = 6

// Image returns the built image, or skips the test and says what is missing. Only root downloads: the tests of an
// ordinary user run offline, on what the cache has.
func Image(t testing.TB) pack.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	start := time.Now()
	result, err := pack.Build(ctx, pack.Options{OutDir: filepath.Join(pack.CacheDir(), "test"), Keep: keep, Offline: os.Geteuid() != 0})
	SkipUnbuildable(t, err)
	t.Logf("image %s: %.1f s, cached %v", result.Key, time.Since(start).Seconds(), result.Cached)
	return result
}

// SkipUnbuildable skips the test when a build failed for want of programs or of a kernel package, which says nothing
// about the code, and fails it on any other error.
func SkipUnbuildable(t testing.TB, err error) {
	t.Helper()
	var missing *pack.MissingToolsError
	switch {
	case err == nil:
	case errors.As(err, &missing), errors.Is(err, pack.ErrNoKernel):
		t.Skip("no image: ", err)
	default:
		t.Fatal(err)
	}
}

// NeedQEMU skips the test where QEMU is not installed.
func NeedQEMU(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("QEMU is not installed (Debian package qemu-system-x86)")
	}
	return program
}
