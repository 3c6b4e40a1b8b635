package image

import (
	"context"
	"errors"
)

const (
	// UploadChunkBytes is the size of the parts of an upload; the last may be shorter.
	UploadChunkBytes = 1 << 20
	// MaxUploads bounds the uploads that are kept, finished ones not counted.
	MaxUploads = 16
)

// ErrNoUpload: the upload is unknown, or the server has started anew since. Begin it again: what is there stays.
var ErrNoUpload = errors.New("no such upload: begin it again, what has arrived is kept")

// Upload is a file on its way to the server.
type Upload struct {
	ID      string
	Missing []uint32 // indexes of the chunks that are still to come
}

// Imported is a registered image, and what registering it took.
type Imported struct {
	*Image
	Format string // of the file
	// StoredBytes were not in the chunk store before.
	StoredBytes uint64
}

// Uploads takes images in any format that package inspect accepts, in chunks, so that an interrupted upload goes on.
type Uploads interface {
	// BeginUpload names a file by its size and the SHA-256 of each of its chunks, concatenated. The same file again is the
	// same upload. *InvalidError when it is too large or too many are under way.
	BeginUpload(ctx context.Context, bytes uint64, sums []byte) (Upload, error)
	// PutUpload stores one chunk, which must have its sum. ErrNoUpload, *InvalidError.
	PutUpload(ctx context.Context, id string, index uint32, data []byte) error
	// FinishUpload converts a complete upload and registers it as RegisterLocal does; r.Path is not used. progress may be
	// nil; it gets how many of how many bytes of disk are done. The upload ends, unless an error says to try again.
	FinishUpload(ctx context.Context, id string, r Registration, progress func(done, total uint64)) (Imported, error)
}
