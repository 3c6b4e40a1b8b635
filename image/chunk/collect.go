package chunk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Collected is what Collect removed.
type Collected struct {
	Images, Chunks int
	Bytes          uint64
}

// Collect removes images that keep does not want, and chunks that no image lists. Nothing goes that is younger than minAge,
// that is being read or written, or whose name the store did not give. keep may be nil: every image stays.
//
// A manifest goes before its chunks, durably, so that a crash leaves chunks too many and never a manifest without them.
func (s *Store) Collect(now time.Time, minAge time.Duration, keep func(digest string) bool) (Collected, error) {
	var done Collected
	old := func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && now.Sub(info.ModTime()) > minAge
	}
	digests, err := s.Images()
	if err != nil {
		return done, err
	}
	for _, digest := range digests {
		if keep == nil || keep(digest) {
			continue
		}
		gone, err := s.remove(digest, old)
		if err != nil {
			return done, fmt.Errorf("remove image %s: %w", digest, err)
		}
		if gone {
			done.Images++
		}
	}
	if err := syncDir(filepath.Join(s.dir, manifestsDir)); err != nil {
		return done, err
	}
	return done, errors.Join(s.sweepParts(old), s.sweep(&done, old))
}

// remove takes an old manifest away unless somebody reads the image. One that cannot be read stays for a person to see.
func (s *Store) remove(digest string, old func(path string) bool) (bool, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	m, err := readManifest(s.dir, digest)
	if errors.Is(err, ErrManifest) || !old(filepath.Join(s.dir, manifestsDir, digest)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	if s.readers[digest] > 0 {
		s.mu.Unlock()
		return false, nil
	}
	err = os.Remove(filepath.Join(s.dir, manifestsDir, digest))
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	s.count(m, -1)
	return true, nil
}

// sweep removes the old chunks that no image lists and no writer uses.
func (s *Store) sweep(done *Collected, old func(path string) bool) error {
	paths, err := filepath.Glob(filepath.Join(s.dir, chunksDir, "??", "*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		sum, err := parseSum(filepath.Base(path))
		if err != nil || !old(path) {
			continue
		}
		n, err := s.drop(sum, path)
		if err != nil {
			return fmt.Errorf("remove chunk %s: %w", sum, err)
		}
		if n > 0 {
			done.Chunks++
			done.Bytes += uint64(n)
		}
	}
	return nil
}

// drop removes one chunk under the lock that a writer pins it under.
func (s *Store) drop(sum Sum, path string) (bytes int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs[sum] > 0 || s.pins[sum] > 0 {
		return 0, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Remove(path)
}

// sweepParts removes what a process that died was writing. While somebody writes it waits for another time.
func (s *Store) sweepParts(old func(path string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writers > 0 {
		return nil
	}
	var errs []error
	for _, sub := range []string{chunksDir, manifestsDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, sub))
		errs = append(errs, err)
		for _, e := range entries {
			if path := filepath.Join(s.dir, sub, e.Name()); strings.HasPrefix(e.Name(), partPrefix) && old(path) {
				errs = append(errs, os.Remove(path))
			}
		}
	}
	return errors.Join(errs...)
}
