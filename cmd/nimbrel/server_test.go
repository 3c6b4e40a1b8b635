package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/nimbrel/nimbrel/internal/statedir"
)

// TestOperatorSocketIsPrivate looks at the operators' socket all the time while it is made, under a umask that hides
// nothing.
func TestOperatorSocketIsPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	f := serverFlags{stateDir: t.TempDir(), operatorUID: -1}
	path := statedir.OperatorSocket(f.stateDir)
	done, seen := make(chan struct{}), make(chan os.FileMode, 1)
	go func() {
		defer close(seen)
		for {
			select {
			case <-done:
				return
			default:
			}
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm() != 0o600 {
				seen <- info.Mode()
				return
			}
		}
	}()
	for range 300 {
		l, err := f.listenOperators()
		if err != nil {
			t.Fatal(err)
		}
		if c, err := net.Dial("unix", path); err != nil {
			t.Fatal(err)
		} else {
			_ = c.Close()
		}
		if _, err := f.listenOperators(); err == nil {
			t.Fatal("a second server took the socket")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(f.stateDir + "/run"); err != nil || len(left) != 0 {
			t.Fatalf("left behind: %v, %v", left, err)
		}
	}
	close(done)
	if mode, was := <-seen; was {
		t.Errorf("the socket was seen with mode %v", mode)
	}
}

// TestOperatorReachesSocketOfUnit holds that --operator-uid works under the umask that the packaged unit sets.
func TestOperatorReachesSocketOfUnit(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	f := serverFlags{stateDir: t.TempDir(), operatorUID: -1}
	l, err := f.listenOperators()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(filepath.Dir(statedir.OperatorSocket(f.stateDir))); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the socket's folder: %v, %v: another user cannot pass", info.Mode(), err)
	}
}

// TestImageLimitsAreFlags holds that what bounds images can be set, reaches the catalog, and is refused where it cannot be.
func TestImageLimitsAreFlags(t *testing.T) {
	for _, c := range []struct{ arguments, refused string }{
		{"--image-max-gib 2048 --account-images-max-gib 4096 --account-images 7 --image-stall-after 10m", ""},
		{"--image-max-gib 0", "--image-max-gib"}, {"--image-max-gib 9999", "--image-max-gib"},
		{"--account-images-max-gib -1", "--account-images-max-gib"}, {"--account-images 0", "--account-images"},
		{"--image-stall-after 0s", "--image-stall-after"},
	} {
		var l imageLimits
		p := pflag.NewFlagSet("", pflag.ContinueOnError)
		l.register(p)
		if err := p.Parse(strings.Fields(c.arguments)); err != nil {
			t.Fatal(err)
		}
		err := l.Validate()
		if c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", c.arguments, err)
		}
		if o := l.options(); c.refused == "" && (err != nil || o.MaxDiskBytes != 2<<40 || o.MaxAccountBytes != 4<<40 || o.MaxAccountImages != 7 || o.StallAfter != 10*time.Minute) {
			t.Errorf("%s: %+v, %v", c.arguments, o, err)
		}
	}
}
