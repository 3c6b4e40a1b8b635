package pack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	resultName = "result.json"
	tempPrefix = ".making-"
	lockName   = ".lock"
	lockPoll   = 100 * time.Millisecond
)

// lockDir takes the directory's advisory lock, waiting for another build until ctx ends. The kernel drops it when the
// process dies, so nothing has to be cleaned after a crash.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("lock %s: another build holds it: %w", dir, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// sweep removes what interrupted builds left. The caller holds the lock, so none of it is in use.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), tempPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune removes published outputs but the keep newest. The caller holds the lock.
func prune(dir string, keep int) error {
	results, err := filepath.Glob(filepath.Join(dir, "*", resultName))
	if err != nil {
		return err
	}
	slices.SortFunc(results, func(a, b string) int { return modTime(filepath.Dir(b)).Compare(modTime(filepath.Dir(a))) })
	for _, result := range results[min(keep, len(results)):] {
		if err := os.RemoveAll(filepath.Dir(result)); err != nil {
			return err
		}
	}
	return nil
}

func hashBytes(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{file}, make([]byte, mib)); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// syncTree makes the files of a flat directory durable before the rename that publishes them.
func syncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	paths := []string{dir}
	for _, entry := range entries {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		err = file.Sync()
		file.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
	}
	return nil
}
