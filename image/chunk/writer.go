package chunk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// syncers is how many chunks are made durable at once: a file system's journal commits them together.
const syncers = 16

// Writer stores one image. It is for one goroutine. Until Commit nothing refers to what it wrote.
type Writer struct {
	store    *Store
	manifest Manifest
	next     int // chunk
	whole    hash.Hash
	pinned   map[Sum]bool // by this writer
	unsynced map[Sum]bool
	wrote    uint64
}

// NewWriter begins an image of a size. Close it, also after Commit.
func (s *Store) NewWriter(imageBytes uint64) (*Writer, error) {
	if imageBytes == 0 || imageBytes > MaxImageBytes {
		return nil, fmt.Errorf("store image: %d bytes: want 1 to %d", imageBytes, uint64(MaxImageBytes))
	}
	s.mu.Lock()
	s.writers++
	s.mu.Unlock()
	return &Writer{
		store: s, manifest: Manifest{ImageBytes: imageBytes, Sums: make([]Sum, Count(imageBytes))},
		whole: sha256.New(), pinned: map[Sum]bool{}, unsynced: map[Sum]bool{},
	}, nil
}

var zeros [Bytes]byte

// Put stores the chunk at an offset. Offsets rise; what is left out is zeros.
func (w *Writer) Put(offset uint64, data []byte) error {
	i := int(offset / Bytes)
	if offset%Bytes != 0 || i < w.next || i >= len(w.manifest.Sums) || int64(len(data)) != w.manifest.size(i) {
		return fmt.Errorf("store image: %d bytes at %d of %d do not fit", len(data), offset, w.manifest.ImageBytes)
	}
	w.skip(i)
	w.whole.Write(data)
	w.next = i + 1
	if bytes.Equal(data, zeros[:len(data)]) {
		return nil
	}
	sum := Sum(sha256.Sum256(data))
	w.manifest.Sums[i] = sum
	if w.pinned[sum] {
		return nil
	}
	durable := w.pin(sum)
	wrote, err := place(w.store.dir, sum, data)
	if err != nil {
		return fmt.Errorf("store chunk %s: %w", sum, err)
	}
	if wrote {
		w.wrote += uint64(len(data))
	}
	if wrote || !durable {
		w.unsynced[sum] = true
	}
	return nil
}

// skip hashes the zeros up to chunk i.
func (w *Writer) skip(i int) {
	for ; w.next < i; w.next++ {
		w.whole.Write(zeros[:w.manifest.size(w.next)])
	}
}

// pin keeps Collect away from a chunk. It says whether the chunk is durable: a manifest lists it.
func (w *Writer) pin(sum Sum) (durable bool) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.pinned[sum] = true
	w.store.pins[sum]++
	return w.store.refs[sum] > 0
}

// place gives a chunk its name, unless it has it and its bytes are what they should be: a crash leaves torn files.
func place(dir string, sum Sum, data []byte) (wrote bool, err error) {
	path := chunkPath(dir, sum)
	there, err := os.ReadFile(path)
	if err == nil && bytes.Equal(there, data) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	part, err := os.CreateTemp(filepath.Join(dir, chunksDir), partPrefix)
	if err != nil {
		return false, err
	}
	_, err = part.Write(data)
	if err = errors.Join(err, part.Chmod(0o444), part.Close()); err == nil {
		if err = os.Rename(part.Name(), path); errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Rename(part.Name(), path))
		}
	}
	if err != nil {
		return false, errors.Join(err, os.Remove(part.Name()))
	}
	return true, nil
}

// Wrote is how many bytes of chunks were not there before.
func (w *Writer) Wrote() uint64 { return w.wrote }

// Commit makes the image durable and returns its digest: first the chunks, then their names, then the manifest.
func (w *Writer) Commit(ctx context.Context) (digest string, err error) {
	w.skip(len(w.manifest.Sums))
	digest = hex.EncodeToString(w.whole.Sum(nil))
	if err := w.sync(ctx); err != nil {
		return "", fmt.Errorf("store image %s: %w", digest, err)
	}
	if err := w.store.add(digest, &w.manifest); err != nil {
		return "", fmt.Errorf("store image %s: %w", digest, err)
	}
	return digest, nil
}

// add gives a manifest its name. One that has it already becomes young again, so that Collect leaves it to its new user.
func (s *Store) add(digest string, m *Manifest) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if _, err := readManifest(s.dir, digest); err == nil {
		dir, now := filepath.Join(s.dir, manifestsDir), time.Now()
		// The directory is synced again: who gave it its name may not have come so far.
		return errors.Join(os.Chtimes(filepath.Join(dir, digest), now, now), syncDir(dir))
	}
	if err := s.publish(digest, m.Encode()); err != nil {
		return err
	}
	s.count(m, 1)
	return nil
}

// sync makes the chunks that were written, or found and not known to be durable, durable under their names.
func (w *Writer) sync(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncers)
	dirs := map[string]bool{filepath.Join(w.store.dir, chunksDir): true}
	for sum := range w.unsynced {
		path := chunkPath(w.store.dir, sum)
		dirs[filepath.Dir(path)] = true
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			return errors.Join(f.Sync(), f.Close())
		})
	}
	if err := group.Wait(); err != nil || len(w.unsynced) == 0 {
		return err
	}
	group, _ = errgroup.WithContext(ctx)
	group.SetLimit(syncers)
	for dir := range dirs {
		group.Go(func() error { return syncDir(dir) })
	}
	return group.Wait()
}

func (s *Store) publish(digest string, manifest []byte) error {
	dir := filepath.Join(s.dir, manifestsDir)
	part, err := os.CreateTemp(dir, partPrefix)
	if err != nil {
		return err
	}
	_, err = part.Write(manifest)
	if err = errors.Join(err, part.Chmod(0o444), part.Sync(), part.Close()); err == nil {
		err = os.Rename(part.Name(), filepath.Join(dir, digest))
	}
	if err != nil {
		return errors.Join(err, os.Remove(part.Name()))
	}
	return syncDir(dir)
}

// Close lets go of the chunks. What was not committed is found again by the next import of the same content, or collected.
func (w *Writer) Close() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.pinned == nil {
		return
	}
	w.store.writers--
	for sum := range w.pinned {
		if w.store.pins[sum]--; w.store.pins[sum] == 0 {
			delete(w.store.pins, sum)
		}
	}
	w.pinned = nil
}
