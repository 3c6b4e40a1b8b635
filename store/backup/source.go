package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// Description says what a source is a state of.
type Description struct {
	History     store.HistoryID
	Version     store.Version
	StoreFormat uint64
	Files       []File // without digests
}

// Bytes is the length of all files.
func (d Description) Bytes() (n int64) {
	for _, f := range d.Files {
		n += f.Bytes
	}
	return n
}

// Source is where a backup's files come from. They are opened once each, in order of the description, and closed before
// the next one; an error of a file's Close says that it is not what it should be.
type Source interface {
	Describe() Description
	Open(name string) (io.ReadCloser, error)
	// Close releases the source. It is called once.
	Close() error
}

// checkpoint is an engine's.
type checkpoint struct{ *embed.Checkpoint }

// OfCheckpoint makes a source of a running engine's checkpoint, and closes that in the end.
func OfCheckpoint(c *embed.Checkpoint) Source { return checkpoint{c} }

func (c checkpoint) Describe() Description {
	d := Description{History: c.History, Version: c.Version, StoreFormat: c.Format}
	for _, f := range c.Files {
		d.Files = append(d.Files, File{Name: f.Name, Bytes: f.Bytes})
	}
	return d
}

// directory is a store that nobody has open.
type directory struct {
	dir  string
	lock *pebble.Lock
	d    Description
}

// OfDirectory makes a source of a store's directory, which it locks. It wraps embed.ErrLocked when a process has the
// store open: then ask that one.
func OfDirectory(dir string) (_ Source, err error) {
	look, err := openQuietly(dir, mvcc.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	s := &directory{dir: dir, d: Description{History: look.History(), Version: look.Last().Version, StoreFormat: mvcc.Format}}
	if err := look.Close(); err != nil {
		return nil, fmt.Errorf("close store %s: %w", dir, err)
	}
	if s.lock, err = pebble.LockDirectory(dir, vfs.Default); err != nil {
		return nil, fmt.Errorf("lock store %s: %w (%v)", dir, embed.ErrLocked, err)
	}
	if s.d.Files, err = listFiles(dir); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

func (s *directory) Describe() Description { return s.d }

func (s *directory) Open(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(s.dir, name))
}

func (s *directory) Close() error { return s.lock.Close() }

// listFiles lists a store's files in order of name, without its lock.
func listFiles(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	var files []File
	for _, entry := range entries {
		if entry.Name() == lockName {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return nil, fmt.Errorf("list store: %w", err)
		}
		if !info.Mode().IsRegular() || !plainName(entry.Name()) {
			return nil, fmt.Errorf("list store: %s is none of a store's files: move it away", filepath.Join(dir, entry.Name()))
		}
		files = append(files, File{Name: entry.Name(), Bytes: info.Size()})
	}
	slices.SortFunc(files, func(a, b File) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return files, nil
}
