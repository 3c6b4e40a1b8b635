package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/image/chunk"
)

// uploadAge is how long an upload that nobody goes on with is kept.
const uploadAge = 7 * 24 * time.Hour

// upload is a file that arrives: uploads/ID in the directory, sparse, of its whole size from the beginning. What of it has
// arrived is in memory only; BeginUpload finds it again by comparing.
type upload struct {
	lock  chan struct{} // holds one element while somebody works on the upload; taken by take
	path  string
	bytes uint64
	sums  []byte
	have  []bool
	ended bool // its file is gone, or another upload's of the same name
}

// take locks an upload, unless ctx ends first: a conversion takes long. Who waited for one that ended meanwhile must not go
// on with what has its name now.
func (u *upload) take(ctx context.Context) error {
	select {
	case u.lock <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for who works on the same upload: %w", context.Cause(ctx))
	}
	if u.ended {
		u.release()
		return image.ErrNoUpload
	}
	return nil
}

func (u *upload) release() { <-u.lock }

func (u *upload) sum(i uint32) [sha256.Size]byte {
	return [sha256.Size]byte(u.sums[int(i)*sha256.Size:])
}

func (u *upload) size(i uint32) uint64 {
	return min(image.UploadChunkBytes, u.bytes-uint64(i)*image.UploadChunkBytes)
}

// holds says whether part is chunk i. What has not arrived is zeros, whose sum is not computed for each chunk of a new file.
func (u *upload) holds(i uint32, part []byte) bool {
	if len(part) == image.UploadChunkBytes && bytes.Equal(part, zeroChunk) {
		return u.sum(i) == zeroSum
	}
	return sha256.Sum256(part) == u.sum(i)
}

var (
	zeroChunk = make([]byte, image.UploadChunkBytes)
	zeroSum   = sha256.Sum256(zeroChunk)
)

// missing lists what has not arrived.
func (u *upload) missing() []uint32 {
	var list []uint32
	for i, have := range u.have {
		if !have {
			list = append(list, uint32(i))
		}
	}
	return list
}

var _ image.Uploads = (*Service)(nil)

// BeginUpload implements image.Uploads.
func (s *Service) BeginUpload(ctx context.Context, bytes uint64, sums []byte) (image.Upload, error) {
	// A file may be larger than its disk by tables and paddings, not by more than as much again.
	if bytes == 0 || bytes > 2*s.options.MaxDiskBytes {
		return image.Upload{}, &image.InvalidError{Field: "content", Reason: fmt.Sprintf("a file of %d bytes: want 1 to %d", bytes, 2*s.options.MaxDiskBytes)}
	}
	if uint64(len(sums)) != chunk.Count(bytes)*sha256.Size {
		return image.Upload{}, &image.InvalidError{Field: "content", Reason: fmt.Sprintf("%d bytes of sums for %d bytes", len(sums), bytes)}
	}
	name := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, bytes), sums...))
	id := hex.EncodeToString(name[:])
	u, err := s.openUpload(id, bytes, sums)
	if err == nil {
		err = u.take(ctx) // waits while another finishes it
	}
	if err != nil {
		return image.Upload{}, err
	}
	defer u.release()
	if err := s.findArrived(ctx, u); err != nil {
		return image.Upload{}, fmt.Errorf("begin upload %s: %w", id, s.explain(err))
	}
	return image.Upload{ID: id, Missing: u.missing()}, nil
}

// openUpload returns the upload of that name, old or new.
func (s *Service) openUpload(id string, bytes uint64, sums []byte) (*upload, error) {
	s.uploadMu.Lock()
	defer s.uploadMu.Unlock()
	if u := s.uploads[id]; u != nil {
		return u, nil
	}
	dir := filepath.Join(s.options.Dir, "uploads")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	path := filepath.Join(dir, id)
	if err := s.roomForUpload(dir, id); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	if err := errors.Join(f.Truncate(int64(bytes)), f.Close()); err != nil {
		return nil, fmt.Errorf("begin upload: %w", s.explain(err))
	}
	u := &upload{lock: make(chan struct{}, 1), path: path, bytes: bytes, sums: sums, have: make([]bool, chunk.Count(bytes))}
	s.uploads[id] = u
	return u, nil
}

// roomForUpload removes abandoned uploads and refuses a new one when there are too many.
func (s *Service) roomForUpload(dir, id string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("begin upload: %w", err)
	}
	others := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || e.Name() == id {
			continue
		}
		if others++; s.options.Env.Clock.Now().Sub(info.ModTime()) > uploadAge {
			delete(s.uploads, e.Name())
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove abandoned upload: %w", err)
			}
			others--
		}
	}
	if others >= image.MaxUploads {
		return &image.InvalidError{Field: "content", Reason: fmt.Sprintf("%d uploads are under way: finish one, or remove abandoned ones from %s", others, dir)}
	}
	return nil
}

// findArrived compares what lies there with the sums, and takes chunks that the store has. u is locked.
func (s *Service) findArrived(ctx context.Context, u *upload) error {
	chunks, err := s.chunks()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(u.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buffer := make([]byte, image.UploadChunkBytes)
	for i := range u.have {
		if err := ctx.Err(); err != nil {
			return err
		}
		index, at := uint32(i), int64(i)*image.UploadChunkBytes
		part := buffer[:u.size(index)]
		if _, err := io.ReadFull(io.NewSectionReader(f, at, int64(len(part))), part); err != nil {
			return err
		}
		if u.have[i] = u.holds(index, part); u.have[i] {
			continue
		}
		if u.have[i] = chunks.Chunk(u.sum(index), part); u.have[i] {
			if _, err := f.WriteAt(part, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) upload(id string) (*upload, error) {
	s.uploadMu.Lock()
	defer s.uploadMu.Unlock()
	if u := s.uploads[id]; u != nil {
		return u, nil
	}
	return nil, image.ErrNoUpload
}

// PutUpload implements image.Uploads.
func (s *Service) PutUpload(ctx context.Context, id string, index uint32, data []byte) error {
	u, err := s.upload(id)
	if err != nil {
		return err
	}
	if int(index) >= len(u.have) || uint64(len(data)) != u.size(index) || sha256.Sum256(data) != u.sum(index) {
		return &image.InvalidError{Field: "content", Reason: fmt.Sprintf("chunk %d of the upload is not what its sum says: the file changed meanwhile; import it again", index)}
	}
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.release()
	f, err := os.OpenFile(u.path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return image.ErrNoUpload
	}
	if err != nil {
		return fmt.Errorf("store upload: %w", err)
	}
	_, err = f.WriteAt(data, int64(index)*image.UploadChunkBytes)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("store upload: %w", s.explain(err))
	}
	u.have[index] = true
	return nil
}

// FinishUpload implements image.Uploads.
func (s *Service) FinishUpload(ctx context.Context, id string, r image.Registration, progress func(done, total uint64)) (image.Imported, error) {
	if err := validate(r); err != nil {
		return image.Imported{}, err
	}
	u, err := s.upload(id)
	if err != nil {
		return image.Imported{}, err
	}
	if err := u.take(ctx); err != nil {
		return image.Imported{}, err
	}
	defer u.release()
	if n := len(u.missing()); n > 0 {
		return image.Imported{}, &image.InvalidError{Field: "content", Reason: fmt.Sprintf("%d chunks of the upload are missing", n)}
	}
	file, err := os.Open(u.path)
	if errors.Is(err, os.ErrNotExist) {
		return image.Imported{}, image.ErrNoUpload
	}
	if err != nil {
		return image.Imported{}, fmt.Errorf("finish upload %s: %w", id, err)
	}
	defer file.Close()
	c, err := s.ingest(ctx, file, progress)
	if err == nil {
		var made *image.Image
		if made, err = s.register(ctx, r, c); err == nil {
			return image.Imported{Image: made, Format: c.format, StoredBytes: c.stored}, s.endUpload(id, u)
		}
	}
	var invalid *image.InvalidError
	if errors.As(err, &invalid) { // it will be refused again
		err = errors.Join(err, s.endUpload(id, u))
	}
	return image.Imported{}, err
}

// endUpload removes an upload. u is locked.
func (s *Service) endUpload(id string, u *upload) error {
	s.uploadMu.Lock()
	defer s.uploadMu.Unlock()
	delete(s.uploads, id)
	u.ended = true
	if err := os.Remove(u.path); err != nil {
		return fmt.Errorf("remove upload %s: %w", id, err)
	}
	return nil
}
