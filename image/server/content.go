package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbrel/nimbrel/image"
)

// blockBytes is the unit of copying; blocks of zeros become holes.
const blockBytes = 1 << 20

// adopt copies the raw disk at path into dir under its digest, unless it is there. It returns digest and size.
func adopt(ctx context.Context, dir, path string) (digest string, size uint64, err error) {
	source, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", 0, &image.InvalidError{Field: "content", Reason: err.Error() + ": want a raw disk that the server can read"}
	}
	if err != nil {
		return "", 0, fmt.Errorf("open image file: %w", err)
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return "", 0, fmt.Errorf("stat image file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 || info.Size()%512 != 0 {
		return "", 0, &image.InvalidError{Field: "content", Reason: path + " is no raw disk: want a regular file of whole 512-byte sectors"}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", 0, fmt.Errorf("make image directory: %w", err)
	}
	part, err := os.CreateTemp(dir, ".incoming-*")
	if err != nil {
		return "", 0, fmt.Errorf("make image file: %w", err)
	}
	defer os.Remove(part.Name()) // gone already when it was renamed
	defer part.Close()
	digest, size, err = copySparse(ctx, part, source)
	if err != nil {
		return "", 0, fmt.Errorf("copy image file %s: %w", path, err)
	}
	if size != uint64(info.Size()) {
		return "", 0, fmt.Errorf("copy image file %s: it changed while being read; try again", path)
	}
	return digest, size, settle(part, filepath.Join(dir, digest))
}

// settle gives complete content its name, durably: the row that refers to it is committed next, and must not outlive it.
func settle(part *os.File, name string) error {
	if _, err := os.Stat(name); err != nil {
		if err := errors.Join(part.Chmod(0o444), part.Sync(), part.Close()); err != nil {
			return fmt.Errorf("write image file: %w", err)
		}
		if err := os.Rename(part.Name(), name); err != nil {
			return fmt.Errorf("name image file: %w", err)
		}
	}
	dir, err := os.Open(filepath.Dir(name)) // also when the name was there: who gave it may not have come so far
	if err != nil {
		return fmt.Errorf("sync image directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync image directory: %w", err)
	}
	return nil
}

// copySparse copies all of r into the empty file w and digests it.
func copySparse(ctx context.Context, w *os.File, r io.Reader) (digest string, size uint64, err error) {
	hash := sha256.New()
	block := make([]byte, blockBytes)
	for {
		n, err := io.ReadFull(r, block)
		if n > 0 {
			hash.Write(block[:n])
			if !zero(block[:n]) {
				if _, err := w.WriteAt(block[:n], int64(size)); err != nil {
					return "", size, err
				}
			}
			size += uint64(n)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return hex.EncodeToString(hash.Sum(nil)), size, w.Truncate(int64(size))
		case err != nil:
			return "", size, err
		case ctx.Err() != nil:
			return "", size, ctx.Err()
		}
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Open opens the content of a digest, for reading at any place, and tells its size. Content stays when its image is
// deregistered: a host may still need it. The error is image.ErrNoContent when there is none.
func (s *Service) Open(digest string) (content io.ReadSeekCloser, size uint64, err error) {
	if !isDigest(digest) {
		return nil, 0, fmt.Errorf("open image content: %.80q is no SHA-256 digest: %w", digest, image.ErrNoContent)
	}
	f, err := os.Open(filepath.Join(s.options.Dir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, image.ErrNoContent)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, errors.Join(err, f.Close()))
	}
	return f, uint64(info.Size()), nil
}

// isDigest says whether s names a file of the directory; nothing else may become part of a path.
func isDigest(s string) bool {
	return len(s) == hex.EncodedLen(sha256.Size) && strings.Trim(s, "0123456789abcdef") == ""
}
