// Package imagecache keeps base images on a host by the digest of their raw content.
//
// A file is in the directory under its digest only when its bytes have that digest: it is fetched beside, verified once,
// made durable and renamed. Guests share it read-only.
//
// A guest's disk is an overlay over its image, so an image must outlive every disk over it: of stopped guests, of kept
// volumes, of other hosts that share the directory. Each disk therefore pins its image with a hard link beside itself,
// and Trim removes only what has no other link; the file system keeps the count.
//
// Deliberately absent: chunks and peers (a later form).
package imagecache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/host"
)

// ErrDigest: what was fetched is not what was asked for.
var ErrDigest = errors.New("content does not match its digest")

// ErrAbsent: the image is not here and there is nowhere to fetch it from.
var ErrAbsent = errors.New("image is not on this host")

// Fetch opens an image's raw content, of exactly the given size.
type Fetch func(ctx context.Context, digest string, size uint64) (io.ReadCloser, error)

// Cache is a directory of images. It is safe for concurrent use, also by other processes.
type Cache struct {
	dir   string
	fetch Fetch // nil: only what is there

	mu     sync.Mutex
	flight map[string]*flight
}

// flight is one fetch that several callers wait for.
type flight struct {
	done chan struct{}
	err  error
}

// Open makes the directory if need be. fetch may be nil.
func Open(dir string, fetch Fetch) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	return &Cache{dir: dir, fetch: fetch, flight: make(map[string]*flight)}, nil
}

// FromDirectory fetches from another directory of images named by digest.
func FromDirectory(dir string) Fetch {
	return func(_ context.Context, digest string, _ uint64) (io.ReadCloser, error) {
		return os.Open(filepath.Join(dir, digest))
	}
}

// Ensure returns the path of an image, fetching it if it is absent. Callers of one image share one fetch; it ends with
// the context of the caller that began it, and a later call begins another. Errors: ErrDigest, ErrAbsent.
func (c *Cache) Ensure(ctx context.Context, digest string, size uint64) (string, error) {
	if !host.IsDigest(digest) {
		return "", fmt.Errorf("ensure image: %q is no digest", digest)
	}
	path := filepath.Join(c.dir, digest)
	for {
		if info, err := os.Stat(path); err == nil && uint64(info.Size()) == size {
			now := time.Now()
			return path, os.Chtimes(path, now, now) // the time of last use; see Trim
		}
		f, mine := c.join(digest)
		if mine {
			f.err = c.bring(ctx, digest, size)
			c.leave(digest, f)
			if f.err != nil {
				return "", fmt.Errorf("ensure image %s: %w", digest, f.err)
			}
			return path, nil
		}
		select {
		case <-f.done:
			if f.err != nil && !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
				return "", fmt.Errorf("ensure image %s: %w", digest, f.err)
			}
		case <-ctx.Done():
			return "", fmt.Errorf("ensure image %s: %w", digest, ctx.Err())
		}
	}
}

func (c *Cache) join(digest string) (f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flight[digest]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	c.flight[digest] = f
	return f, true
}

func (c *Cache) leave(digest string, f *flight) {
	c.mu.Lock()
	delete(c.flight, digest)
	c.mu.Unlock()
	close(f.done)
}

// bring fetches, verifies and publishes an image.
func (c *Cache) bring(ctx context.Context, digest string, size uint64) error {
	if c.fetch == nil {
		return ErrAbsent
	}
	source, err := c.fetch(ctx, digest, size)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if err != nil {
		return err
	}
	defer source.Close()
	stop := context.AfterFunc(ctx, func() { source.Close() })
	defer stop()
	temp, err := os.CreateTemp(c.dir, ".fetch-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone already when it was published
	defer temp.Close()
	if err := receive(temp, source, digest, size); err != nil {
		return errors.Join(err, ctx.Err())
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), filepath.Join(c.dir, digest)); err != nil {
		return err
	}
	return c.syncNames()
}

// syncNames makes the names in the directory durable: a disk must not outlive the name of the image under it.
func (c *Cache) syncNames() error {
	dir, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", c.dir, err)
	}
	return nil
}

// receive copies exactly the wanted bytes, leaving holes for zeros, and checks their digest.
func receive(to *os.File, from io.Reader, digest string, size uint64) error {
	sum := sha256.New()
	sparse := &sparseWriter{file: to}
	n, err := io.CopyBuffer(io.MultiWriter(sum, sparse), struct{ io.Reader }{io.LimitReader(from, int64(size)+1)}, make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if uint64(n) != size {
		return fmt.Errorf("%w: at least %d bytes, want %d", ErrDigest, n, size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("%w: it is %s", ErrDigest, got)
	}
	return to.Truncate(n)
}

// sparseWriter skips blocks of zeros: most of a raw image is empty.
type sparseWriter struct {
	file   *os.File
	offset int64
}

const block = 64 << 10

var zeros = make([]byte, block)

func (w *sparseWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part := rest[:min(block, len(rest))]
		rest = rest[len(part):]
		if !bytes.Equal(part, zeros[:len(part)]) {
			if _, err := w.file.WriteAt(part, w.offset); err != nil {
				return 0, err
			}
		}
		w.offset += int64(len(part))
	}
	return len(p), nil
}
