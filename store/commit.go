package store

import "encoding/hex"

// SessionID names one client's line of commits. It is drawn at random.
type SessionID [16]byte

// CommitID identifies a commit: resending the same commit under the same id applies it at most once.
type CommitID struct {
	Session SessionID `cbor:"1,keyasint"`
	Seq     uint64    `cbor:"2,keyasint"` // from 1, distinct within the session
	Attempt uint32    `cbor:"3,keyasint"` // which try of the caller's closure it carries, from 1
}

// String returns session, sequence and attempt.
func (id CommitID) String() string {
	return hex.EncodeToString(id.Session[:]) + "/" + itoa(id.Seq) + "/" + itoa(uint64(id.Attempt))
}

// ReadRange is a key or range that was read: [Begin, End), or just Begin when End is nil.
type ReadRange struct {
	Begin []byte `cbor:"1,keyasint"`
	End   []byte `cbor:"2,keyasint,omitempty"`
}

// Commit is what a transaction sends. Evaluation order: size and deadline, identity, reads, operations in order.
type Commit struct {
	ID CommitID `cbor:"1,keyasint"`
	// AckedBelow says that the client has a definite answer for every smaller Seq of the session, so that the engine
	// drops their records and refuses late copies.
	AckedBelow uint64 `cbor:"2,keyasint,omitempty"`
	// NotAfterMs is the Unix time in milliseconds after which the commit is refused. Mandatory, at most
	// MaxCommitLifetime ahead.
	NotAfterMs int64 `cbor:"3,keyasint"`
	// Tenant says whose queue the commit waits in.
	Tenant string `cbor:"4,keyasint,omitempty"`
	// ReadVersion is the snapshot that Reads were read from, in the history ReadHistory.
	ReadVersion Version     `cbor:"5,keyasint,omitempty"`
	ReadHistory HistoryID   `cbor:"9,keyasint"`
	Reads       []ReadRange `cbor:"6,keyasint,omitempty"`
	Ops         []Op        `cbor:"7,keyasint,omitempty"`
	// Cancel commits an abort record for ID instead of operations. The answer is the one already given, if any, else
	// OutcomeCancelled; a later copy of the commit is refused.
	Cancel bool `cbor:"8,keyasint,omitempty"`
}

// OpKind tells what an operation does.
type OpKind uint8

// The operations; the numbers are part of the format.
const (
	OpPut            OpKind = 1
	OpDelete         OpKind = 2
	OpDeleteRange    OpKind = 3
	OpAdd            OpKind = 4
	OpTake           OpKind = 5
	OpTakeExact      OpKind = 6
	OpGive           OpKind = 7
	OpCreatePool     OpKind = 8
	OpInsertIfAbsent OpKind = 9
	OpExpect         OpKind = 10
	OpMin            OpKind = 11
	OpMax            OpKind = 12
	OpGroup          OpKind = 13
	OpFirstOf        OpKind = 14
	OpAtLeast        OpKind = 15
)

// Op is one operation. Each operation and each of its groups has an index: they are numbered together from 0 in the
// order of program text, a combinator before its groups, a group before its operations. Slots refer to these.
type Op struct {
	Kind  OpKind   `cbor:"1,keyasint"`
	Index uint32   `cbor:"2,keyasint"`
	Key   Template `cbor:"3,keyasint"`           // the row, the range's begin or the pool's prefix (the last two constant)
	End   []byte   `cbor:"4,keyasint,omitempty"` // DeleteRange
	Value Template `cbor:"5,keyasint"`           // Put, InsertIfAbsent
	// Add: Delta with the bounds of the result. Min and Max: N in Delta.
	Delta int64 `cbor:"6,keyasint,omitempty"`
	Min   int64 `cbor:"7,keyasint,omitempty"`
	Max   int64 `cbor:"8,keyasint,omitempty"`
	// TakeExact, Give: Element. Take: least and greatest element, in From and To. CreatePool: size in To.
	Element   uint64     `cbor:"9,keyasint,omitempty"`
	From      uint64     `cbor:"10,keyasint,omitempty"`
	To        uint64     `cbor:"11,keyasint,omitempty"`
	Reserved  []uint64   `cbor:"12,keyasint,omitempty"`
	Predicate *Predicate `cbor:"13,keyasint,omitempty"`
	Groups    []Group    `cbor:"14,keyasint,omitempty"` // Group: one; FirstOf: alternatives; AtLeast: all
	N         uint32     `cbor:"15,keyasint,omitempty"` // AtLeast
}

// Group is a part of a combinator that runs whole or is skipped.
type Group struct {
	Index uint32 `cbor:"1,keyasint"`
	Label []byte `cbor:"2,keyasint,omitempty"`
	Ops   []Op   `cbor:"3,keyasint,omitempty"`
}

// IsGuard tells whether the operation can fail or has a result.
func (k OpKind) IsGuard() bool { return k > OpDeleteRange }

// PredicateKind tells what a predicate asks.
type PredicateKind uint8

// The predicates; the numbers are part of the format.
const (
	PredicateExists     PredicateKind = 1
	PredicateAbsent     PredicateKind = 2
	PredicateEquals     PredicateKind = 3
	PredicateAtVersion  PredicateKind = 4
	PredicateIntAtLeast PredicateKind = 5
	PredicateIntEquals  PredicateKind = 6
)

// Predicate is a condition on one row, for Tx.Expect.
type Predicate struct {
	Kind    PredicateKind `cbor:"1,keyasint"`
	Value   Value         `cbor:"2,keyasint"`
	Version Version       `cbor:"3,keyasint,omitempty"`
	N       int64         `cbor:"4,keyasint,omitempty"`
}

// Exists holds when the row exists.
func Exists() Predicate { return Predicate{Kind: PredicateExists} }

// Absent holds when the row does not exist.
func Absent() Predicate { return Predicate{Kind: PredicateAbsent} }

// Equals holds when the row exists with this content and kind.
func Equals(v Value) Predicate { return Predicate{Kind: PredicateEquals, Value: v} }

// AtVersion holds when the row exists and was last written by version v, before this transaction.
func AtVersion(v Version) Predicate { return Predicate{Kind: PredicateAtVersion, Version: v} }

// IntAtLeast holds when the row exists, is an integer and at least n.
func IntAtLeast(n int64) Predicate { return Predicate{Kind: PredicateIntAtLeast, N: n} }

// IntEquals holds when the row exists, is an integer and n.
func IntEquals(n int64) Predicate { return Predicate{Kind: PredicateIntEquals, N: n} }

// Holds tells whether a row satisfies the predicate.
func (p Predicate) Holds(v Value, version Version, found bool) bool {
	switch p.Kind {
	case PredicateExists:
		return found
	case PredicateAbsent:
		return !found
	case PredicateEquals:
		return found && v.Equal(p.Value)
	case PredicateAtVersion:
		return found && version == p.Version
	case PredicateIntAtLeast:
		return found && v.Kind == KindInt64 && v.Int >= p.N
	case PredicateIntEquals:
		return found && v.Kind == KindInt64 && v.Int == p.N
	}
	return false
}

// Outcome tells how a commit ended.
type Outcome uint8

// The outcomes; the numbers are part of the format.
const (
	OutcomeCommitted   Outcome = 1
	OutcomeConflict    Outcome = 2
	OutcomeGuardFailed Outcome = 3
	OutcomeRefused     Outcome = 4
	OutcomeCancelled   Outcome = 5
)

// Answer is the definite end of a commit.
type Answer struct {
	Outcome Outcome `cbor:"1,keyasint"`
	// Version is that of the commit; for a conflict that of the write that collided; for a guard failure that of the
	// state which the guard was evaluated on.
	Version Version `cbor:"2,keyasint,omitempty"`
	// Results by index of operation or group; those that have none or were skipped are zero.
	Results []SlotResult `cbor:"3,keyasint,omitempty"`
	Key     []byte       `cbor:"4,keyasint,omitempty"` // conflict
	Failure *Failure     `cbor:"5,keyasint,omitempty"` // guard failed
	Reason  Reason       `cbor:"6,keyasint,omitempty"` // refused
	Detail  string       `cbor:"7,keyasint,omitempty"` // refused: what to do
}

// SlotResult is the result of one operation or group.
type SlotResult struct {
	Ran     bool   `cbor:"1,keyasint,omitempty"`
	Int     int64  `cbor:"2,keyasint,omitempty"`
	Element uint64 `cbor:"3,keyasint,omitempty"`
	Label   []byte `cbor:"4,keyasint,omitempty"`
}

// Failure says which guard did not hold.
type Failure struct {
	Op  uint32 `cbor:"1,keyasint"`
	Key []byte `cbor:"2,keyasint,omitempty"`
	// Value and Version are the committed ones, before this transaction.
	Found   bool    `cbor:"3,keyasint,omitempty"`
	Value   Value   `cbor:"4,keyasint"`
	Version Version `cbor:"5,keyasint,omitempty"`
	// InsideFound and Inside are what the row held inside the transaction when the guard ran.
	InsideFound bool  `cbor:"6,keyasint,omitempty"`
	Inside      Value `cbor:"7,keyasint"`
	// Cause is the guard that made the first skipped group of a combinator fail.
	Cause *Failure `cbor:"8,keyasint,omitempty"`
}
