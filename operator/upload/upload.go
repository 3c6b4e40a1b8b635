// Package upload carries disk images over the operators' endpoint, in chunks, so that an interrupted upload goes on where
// it was.
//
// A client begins with the size and the sums of all chunks, puts those that are missing, and finishes; finishing answers
// lines of JSON, progress first and the outcome last. The same file begun again is the same upload.
//
// Deliberately absent: any meaning of the bytes, and authentication (see operator/server).
//
// Start reading at Service; Client and Handler are its two ends.
package upload

import (
	"context"
	"errors"
)

// Path is where uploads are served; the step follows.
const Path = "/upload/"

// ChunkBytes is the size of a chunk; the last of a file may be shorter.
const ChunkBytes = 1 << 20

const (
	beginBytesMax  = 256 << 20 // sums of 6 TiB in base64
	finishBytesMax = 64 << 10
	messageMax     = 4 << 10
)

// Begun is an upload that may be gone on with.
type Begun struct {
	ID      string   `json:"id"`
	Missing []uint32 `json:"missing"` // indexes of chunks
}

// Finish says what to make of a complete upload.
type Finish struct {
	Name         string `json:"name"`
	Description  string `json:"description,omitempty"`
	Architecture string `json:"architecture,omitempty"` // x86_64 when empty
	BootMode     string `json:"bootMode,omitempty"`
	Account      string `json:"account,omitempty"` // owner; empty: the operator's, for everyone
	Public       bool   `json:"public,omitempty"`  // for everyone, though an account owns it
}

// Result is the image that was made.
type Result struct {
	ImageID     string `json:"imageId"`
	Name        string `json:"name"`
	Format      string `json:"format"` // of the file
	SHA256      string `json:"sha256"` // of the disk
	SizeBytes   uint64 `json:"sizeBytes"`
	StoredBytes uint64 `json:"storedBytes"` // that were not stored before
}

// Service is what takes uploads. Its errors' texts are shown to the person who uploads.
type Service interface {
	Begin(ctx context.Context, bytes uint64, sums []byte) (Begun, error)
	Put(ctx context.Context, id string, index uint32, data []byte) error
	Finish(ctx context.Context, id string, f Finish, progress func(done, total uint64)) (Result, error)
}

// ErrBeginAgain: the server does not know the upload (any more). Begin the same file again: what has arrived is kept.
var ErrBeginAgain = errors.New("the server does not know the upload")

// begin is the body of the first request.
type begin struct {
	Bytes uint64 `json:"bytes"`
	Sums  []byte `json:"sums"`
}

// event is one line of the last answer. Exactly one of Result and Error is in the last line.
type event struct {
	Done   uint64  `json:"done,omitempty"`
	Total  uint64  `json:"total,omitempty"`
	Result *Result `json:"result,omitempty"`
	Error  string  `json:"error,omitempty"`
	Again  bool    `json:"again,omitempty"` // the error is ErrBeginAgain
}
