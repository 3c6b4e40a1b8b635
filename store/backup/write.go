package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Progress is told how many of how many bytes a step has done. It is called often; nil is fine.
type Progress func(step string, done, total int64)

func (p Progress) say(step string, done, total int64) {
	if p != nil {
		p(step, done, total)
	}
}

// Room is what a backup or a restore takes, and what there is.
type Room struct {
	Bytes int64  // that will be written, at most
	Free  uint64 // where they go; 0 when it cannot be told
}

// spare is left free beside what is written: manifest, folders, the file system's own.
const spare = 16 << 20

// room refuses what does not fit.
func room(above string, bytes int64) (Room, error) {
	r := Room{Bytes: bytes}
	usage, err := vfs.Default.GetDiskUsage(above)
	if err != nil {
		return r, nil //nolint:nilerr // not every system tells; writing will
	}
	if r.Free = usage.AvailBytes; r.Free < uint64(bytes)+spare {
		return r, fmt.Errorf("%d bytes are to be written under %s, where %d are free: free some, or choose another place", bytes+spare, above, r.Free)
	}
	return r, nil
}

// Write makes a backup of a source in dir, which must not exist, and closes the source. agree is told what it takes before
// anything is written, and may refuse; nil agrees.
func Write(ctx context.Context, dir string, s Source, now time.Time, agree func(Room) error, p Progress) (_ *Manifest, err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	w, err := begin(dir, false)
	if err != nil {
		return nil, fmt.Errorf("make backup: %w", err)
	}
	defer w.abandon()
	d := s.Describe()
	if err := w.agreed(d.Bytes(), agree); err != nil {
		return nil, fmt.Errorf("make backup: %w", err)
	}
	m := &Manifest{Format: Format, History: d.History.String(), Version: d.Version, StoreFormat: d.StoreFormat, MadeAtMs: now.UnixMilli()}
	if m.Files, err = w.copy(ctx, filepath.Join(w.partial, storeName), "copy", d.Files, s.Open, p); err != nil {
		return nil, fmt.Errorf("make backup: %w", err)
	}
	b, err := m.encode()
	if err != nil {
		return nil, fmt.Errorf("make backup: %w", err)
	}
	if _, err := parseManifest(b); err != nil { // what could not be read back is no backup
		return nil, fmt.Errorf("make backup: %w", err)
	}
	if err := writeSynced(filepath.Join(w.partial, manifestName), b); err != nil {
		return nil, fmt.Errorf("make backup: %w", err)
	}
	return m, w.finish()
}

// writing is a directory that is being made, under a name of its own until it is whole.
type writing struct {
	dir, above, partial string
	done                bool
}

// begin makes the partial directory. dir must not exist; with emptyIsFine it may, empty.
func begin(dir string, emptyIsFine bool) (*writing, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return nil, fmt.Errorf("%s is there and not empty: nothing is written over; choose another name, or move it away", dir)
	case err == nil && !emptyIsFine:
		return nil, fmt.Errorf("%s is there already: choose another name, or remove it", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is in the way: %w", dir, err)
	}
	w := &writing{dir: dir, above: filepath.Dir(dir)}
	if _, err := os.Stat(w.above); err != nil {
		return nil, fmt.Errorf("the folder above: %w: make it first", err)
	}
	if w.partial, err = os.MkdirTemp(w.above, "."+filepath.Base(dir)+".partial-"); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *writing) agreed(bytes int64, agree func(Room) error) error {
	r, err := room(w.above, bytes)
	if err == nil && agree != nil {
		err = agree(r)
	}
	return err
}

// abandon removes what was not finished.
func (w *writing) abandon() {
	if !w.done {
		_ = os.RemoveAll(w.partial) // nobody takes it for anything
	}
}

// finish gives the directory its name, for good.
func (w *writing) finish() error {
	if err := syncFolder(w.partial); err != nil {
		return err
	}
	// An empty directory gives way; one that got something meanwhile does not.
	if err := os.Remove(w.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(w.partial, w.dir); err != nil {
		return err
	}
	w.done = true
	return syncFolder(w.above)
}

// copy copies and syncs files into a folder that it makes, and returns them with the digests of what was read.
func (w *writing) copy(ctx context.Context, into, step string, files []File, open func(string) (io.ReadCloser, error), p Progress) ([]File, error) {
	if err := os.MkdirAll(into, 0o700); err != nil {
		return nil, err
	}
	total, done := int64(0), int64(0)
	for _, f := range files {
		total += f.Bytes
	}
	var copied []File
	for _, f := range files {
		if !plainName(f.Name) {
			return nil, fmt.Errorf("%w: file %.80q", ErrDamaged, f.Name)
		}
		sum, err := copyFile(ctx, filepath.Join(into, f.Name), f, open, func(n int64) {
			done += n
			p.say(step, done, total)
		})
		if err != nil {
			return nil, fmt.Errorf("copy file %s: %w", f.Name, err)
		}
		f.SHA256 = sum
		copied = append(copied, f)
	}
	return copied, syncFolder(into)
}

func copyFile(ctx context.Context, to string, f File, open func(string) (io.ReadCloser, error), moved func(int64)) (sum string, err error) {
	from, err := open(f.Name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	d := NewDigest()
	n, err := io.Copy(io.MultiWriter(out, d), &counted{ctx: ctx, from: io.LimitReader(from, f.Bytes), moved: moved})
	if err == nil && n != f.Bytes {
		err = fmt.Errorf("%w: %d bytes of %d", io.ErrUnexpectedEOF, n, f.Bytes)
	}
	if err == nil {
		err = out.Sync()
	}
	return d.Text(), errors.Join(err, out.Close())
}

// counted tells how much was read, and ends with its context.
type counted struct {
	ctx   context.Context
	from  io.Reader
	moved func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.from.Read(b)
	c.moved(int64(n))
	return n, err
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// Size prints bytes for people.
func Size(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return strconv.FormatInt(bytes>>30, 10) + " GiB"
	case bytes >= 10<<20:
		return strconv.FormatInt(bytes>>20, 10) + " MiB"
	}
	return strconv.FormatInt((bytes+1023)>>10, 10) + " KiB"
}
