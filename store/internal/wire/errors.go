package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/nimbrel/nimbrel/store"
)

// The codes of errors; numbers are part of the protocol and lie above those of package rpc. Every code but CodeUnknown and
// CodeTooLong says of a commit that nothing was applied.
const (
	CodeUnknown      uint32 = 1001 // store.ErrUnknown
	CodeClosed       uint32 = 1002
	CodeTooOld       uint32 = 1003
	CodeLost         uint32 = 1004 // the server does not hold the snapshot
	CodeCompacted    uint32 = 1005
	CodeOtherHistory uint32 = 1006
	CodeFailed       uint32 = 1007 // any other error of the engine
	CodeTooLong      uint32 = 1008 // the answer of a commit needs StreamCommit: send it there again
	CodeCancelled    uint32 = 1009 // the caller's context ended before anything was done
	CodeVersion      uint32 = 1010 // the ends speak different versions
)

// ErrSnapshotLost says that the server holds the snapshot no more: it was restarted, or gave it up for its age or because its
// client was gone for long. It comes with store.ErrTooOld.
var ErrSnapshotLost = errors.New("snapshot was lost by the server")

// ErrVersion says that the other end speaks another version.
var ErrVersion = errors.New("the ends speak different versions: upgrade the older")

var sentinels = []struct {
	code uint32
	err  error
}{
	{CodeUnknown, store.ErrUnknown}, {CodeClosed, store.ErrClosed}, {CodeLost, ErrSnapshotLost}, {CodeTooOld, store.ErrTooOld},
	{CodeCompacted, store.ErrCompacted}, {CodeOtherHistory, store.ErrOtherHistory}, {CodeVersion, ErrVersion},
	{CodeCancelled, context.Canceled}, {CodeCancelled, context.DeadlineExceeded},
}

// CodeOf returns the code of an engine's error.
func CodeOf(err error) uint32 {
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.code
		}
	}
	return CodeFailed
}

// ErrorOf is the error that a code and text stand for.
func ErrorOf(code uint32, text string) error {
	if code == CodeLost {
		return fmt.Errorf("server: %s: %w: %w", text, ErrSnapshotLost, store.ErrTooOld)
	}
	for _, s := range sentinels {
		if s.code == code {
			return fmt.Errorf("server: %s: %w", text, s.err)
		}
	}
	return fmt.Errorf("server: %s (code %d)", text, code)
}
