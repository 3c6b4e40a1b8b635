package store

import (
	"context"
	"encoding/hex"
	"time"
)

// Version numbers commits. It increases with every commit of a history; 0 is the empty state before the first.
// Only (HistoryID, Version) identifies a state: a restore from backup starts a new history.
type Version uint64

// HistoryID names one line of versions. It is drawn at random when a store is created.
type HistoryID [16]byte

// String returns the id in hexadecimal.
func (h HistoryID) String() string { return hex.EncodeToString(h[:]) }

// Position is a version of a history: what a follower keeps to go on from, also across processes.
type Position struct {
	History HistoryID
	Version Version
}

// Kind tells what a value is. It is the first byte of every stored value.
type Kind byte

// The kinds of values; the numbers are part of the format. Only integers can be added to.
const (
	KindBytes Kind = 1
	KindInt64 Kind = 2
)

// Value is the content of a row: Bytes or Int, by Kind.
type Value struct {
	Kind  Kind   `cbor:"1,keyasint"`
	Bytes []byte `cbor:"2,keyasint,omitempty"`
	Int   int64  `cbor:"3,keyasint,omitempty"`
}

// BytesValue returns a value that holds b, which is not copied.
func BytesValue(b []byte) Value { return Value{Kind: KindBytes, Bytes: b} }

// IntValue returns a value that holds n.
func IntValue(n int64) Value { return Value{Kind: KindInt64, Int: n} }

// Equal tells whether both hold the same content of the same kind.
func (v Value) Equal(w Value) bool {
	return v.Kind == w.Kind && v.Int == w.Int && string(v.Bytes) == string(w.Bytes)
}

// KV is a row and the version that wrote it; 0 for a row written earlier in the same transaction.
type KV struct {
	Key     []byte
	Value   Value
	Version Version
}

// Change is one row's part of a transaction.
type Change struct {
	Key     []byte  `cbor:"1,keyasint"`
	Value   Value   `cbor:"2,keyasint"`
	Deleted bool    `cbor:"3,keyasint,omitempty"`
	Version Version `cbor:"4,keyasint"`
}

// Batch is one whole transaction as seen by a feed, restricted to the feed's prefixes, in key order. With Progress set it
// holds no change and says that nothing up to Version is missing.
type Batch struct {
	History  HistoryID
	Version  Version
	Changes  []Change
	Progress bool
}

// RangeOptions names a range of keys [Begin, End) and how to walk it. A nil End has no bound. Limit 0 means
// MaxRangeRows.
type RangeOptions struct {
	Begin, End []byte
	Limit      int
	Reverse    bool
}

// Engine executes commits and serves snapshots and feeds. Implementations are safe for concurrent use; keys are whole
// keys, without any handle's prefix. Check one with storetest.RunConformance.
type Engine interface {
	// Snapshot returns the latest durable state, waiting until that is at least the given version.
	Snapshot(ctx context.Context, atLeast Version) (Snapshot, error)
	// Commit evaluates and applies one commit. An error other than ErrUnknown says that nothing was applied; after
	// ErrUnknown only resending the same commit, or cancelling it, tells.
	Commit(ctx context.Context, c *Commit) (*Answer, error)
	// Watch streams the transactions after version from that touch a key under one of the prefixes; none means all.
	Watch(ctx context.Context, from Version, prefixes ...[]byte) (Feed, error)
	// Close waits for commits under way and releases everything. Later calls return ErrClosed.
	Close() error
}

// Snapshot is a state of the store. Release it soon: an engine may refuse reads with ErrTooOld once a snapshot is
// older than its history. Safe for concurrent use.
type Snapshot interface {
	History() HistoryID
	Version() Version
	// Get returns a row, the version that wrote it and whether it exists.
	Get(ctx context.Context, key []byte) (Value, Version, bool, error)
	Range(ctx context.Context, o RangeOptions) ([]KV, error)
	Release()
}

// Feed is a stream of whole transactions in order. Next returns at least every ProgressInterval: with a progress mark
// when nothing happened, and at once after transactions that touch none of the feed's prefixes. It returns ErrCompacted when the history it stands on is gone. One caller at a time.
type Feed interface {
	Next(ctx context.Context) (Batch, error)
	Close()
}

// ProgressInterval bounds the time between two batches of a feed, progress marks included.
const ProgressInterval = 100 * time.Millisecond

// Reader reads one state; keys are relative to the handle it came from.
type Reader interface {
	Get(ctx context.Context, key []byte) (Value, bool, error)
	Range(ctx context.Context, o RangeOptions) ([]KV, error)
	Version() Version
}
