package imagecache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host"
)

const (
	// pinnedSuffix marks an image that a disk on another file system needs: it is never removed.
	pinnedSuffix = ".pinned"
	// abandonedAfter is when a file of an unfinished fetch is surely nobody's.
	abandonedAfter = time.Hour
)

// Pin keeps an image for as long as the file at path, which it makes, exists. It replaces the pin of another image. Where
// path is on another file system, or has as many links as it may have, the image is kept for ever.
func (c *Cache) Pin(digest, path string) error {
	image := filepath.Join(c.dir, digest)
	err := os.Link(image, path)
	if errors.Is(err, fs.ErrExist) {
		if same(image, path) {
			return nil
		}
		if err = os.Remove(path); err == nil {
			err = os.Link(image, path)
		}
	}
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EOPNOTSUPP) {
		err = os.WriteFile(image+pinnedSuffix, nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("pin image %s: %w", digest, err)
	}
	return nil
}

func same(a, b string) bool {
	first, errA := os.Stat(a)
	second, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(first, second)
}

// Trim removes the images that no disk is over, that needed does not name, and that were last used more than unusedFor
// before now. It answers their digests. unusedFor must be longer than the way from Ensure to Pin.
func (c *Cache) Trim(now time.Time, unusedFor time.Duration, needed func(digest string) bool) (removed []string, err error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("trim images: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		path := filepath.Join(c.dir, name)
		info, err := entry.Info()
		switch {
		case err != nil: // removed meanwhile
		case strings.HasPrefix(name, ".fetch-") && now.Sub(info.ModTime()) > abandonedAfter:
			errs = append(errs, os.Remove(path))
		case strings.HasPrefix(name, removePrefix): // left by a process that ended while it removed
			_, err := c.settle(strings.TrimPrefix(name, removePrefix))
			errs = append(errs, err)
		case !host.IsDigest(name) || now.Sub(info.ModTime()) <= unusedFor || needed(name) || !alone(path, path):
		default:
			gone, err := c.remove(name)
			errs = append(errs, err)
			if gone {
				removed = append(removed, name)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("trim images: %w", err)
	}
	return removed, nil
}

// alone says whether nothing pins an image, which is called now what it may be. What cannot be told is pinned.
func alone(path, now string) bool {
	var info unix.Stat_t
	if _, err := os.Lstat(path + pinnedSuffix); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return unix.Stat(now, &info) == nil && info.Nlink == 1
}

// remove takes an image away. It is renamed first and looked at again: one that was pinned meanwhile, perhaps by another
// host's agent, goes back.
func (c *Cache) remove(digest string) (bool, error) {
	if err := os.Rename(filepath.Join(c.dir, digest), filepath.Join(c.dir, removePrefix+digest)); err != nil {
		return false, err
	}
	return c.settle(digest)
}

// settle ends the removal of a renamed image. Another agent may have ended it.
func (c *Cache) settle(digest string) (gone bool, err error) {
	path, doomed := filepath.Join(c.dir, digest), filepath.Join(c.dir, removePrefix+digest)
	if gone = alone(path, doomed); gone {
		err = os.Remove(doomed)
	} else {
		err = os.Rename(doomed, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return gone, err
}

// removePrefix begins the name of an image that is being removed.
const removePrefix = ".remove-"
