package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nimbrel/nimbrel/internal/runbook"
)

// stateFormat numbers the layout of the server's state directory. A directory of a higher one is left alone.
const stateFormat = 1

// minFree is less than what a store's first files take: an engine that runs out of it while it opens waits for more.
const minFree = 16 << 20

// openStateDir makes the server's directory, or refuses one that another version made, before anything in it is touched.
func openStateDir(dir string) error {
	switch err := os.MkdirAll(dir, 0o700); {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("open state directory %s: something that is no directory is in its place: move it away, or choose another with --state-dir", dir)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("open state directory: %w: run as root (sudo), or choose a directory of your own with --state-dir", err)
	case err != nil:
		return fmt.Errorf("open state directory: %w", err)
	}
	if free, known := freeBytes(dir); known && free < minFree {
		return fmt.Errorf("open state directory %s: %w: %d KiB are free, and a server begins with %d", dir, syscall.ENOSPC, free>>10, minFree>>10)
	}
	path := filepath.Join(dir, "format")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(path, []byte(strconv.Itoa(stateFormat)+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	format, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || format > stateFormat {
		return fmt.Errorf("open state directory %s: its format is %.20q, and this is nimbrel %s, which knows %d: a newer version made it; run that one, or put a copy from before the upgrade back (%s)", dir, strings.TrimSpace(string(text)), version, stateFormat, runbook.UpgradeRollback)
	}
	return nil
}

// advise adds what to do to errors that come from below without.
func advise(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, syscall.ENOSPC), strings.Contains(text, "no space left on device"):
		return fmt.Errorf("%w: free some space there: see %s", err, runbook.DiskFull)
	case strings.HasPrefix(text, "unknown command"), strings.HasPrefix(text, "unknown flag"), strings.HasPrefix(text, "unknown shorthand"):
		return fmt.Errorf("%w: see `nimbrel --help`, or --help of the command", err)
	}
	return err
}
