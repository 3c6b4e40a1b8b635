package store

import (
	"errors"
	"fmt"
	"strconv"
)

var (
	// ErrUnknown says that a commit's answer was lost: it may or may not have been applied.
	ErrUnknown = errors.New("outcome unknown")
	// ErrUnresolved says that a transaction read what exists only at commit: a row that an earlier guard may change, or
	// that a key with a slot may name.
	ErrUnresolved = errors.New("unresolved read: the row's value exists only at commit")
	// ErrCompacted says that the history after a feed's position is gone: read a snapshot and watch from there.
	ErrCompacted = errors.New("history is compacted")
	// ErrOtherHistory says that a version belongs to another history than the store's: start over from a snapshot.
	ErrOtherHistory = errors.New("version is of another history")
	// ErrTooOld says that a snapshot outlived the retained history.
	ErrTooOld = errors.New("snapshot is too old")
	// ErrClosed says that the engine, snapshot or feed was closed.
	ErrClosed = errors.New("closed")
	// ErrNoPool says that there is no pool under the prefix.
	ErrNoPool = errors.New("no such pool")
)

// ConflictError says that a row which the transaction read was changed by another, after as many attempts as allowed.
type ConflictError struct {
	Key      []byte // whole key
	Version  Version
	Attempts int
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("conflict on %q at version %d after %d attempts", e.Key, e.Version, e.Attempts)
}

// GuardError says that a guard did not hold. Nothing was applied.
type GuardError struct {
	Op      int // index of the operation, see Op
	Key     []byte
	Found   bool // whether the row was there
	Value   Value
	Version Version
	// InsideFound and Inside are what the row held inside the transaction when the guard ran.
	InsideFound bool
	Inside      Value
	// Err is the error given with Else, or nil.
	Err error
	// Cause is the guard that made the first skipped group of a combinator fail, or nil.
	Cause *GuardError
}

func (e *GuardError) Error() string {
	s := fmt.Sprintf("guard %d failed on %q", e.Op, e.Key)
	switch {
	case e.Cause != nil:
		s = fmt.Sprintf("guard %d: too few groups hold: %v", e.Op, e.Cause)
	case !e.Found:
		s += ": no such row"
	case e.Value.Kind == KindInt64:
		s += fmt.Sprintf(": row holds %d since version %d", e.Value.Int, e.Version)
	default:
		s += fmt.Sprintf(": row is of version %d", e.Version)
	}
	if e.Err != nil {
		return e.Err.Error() + ": " + s
	}
	return s
}

// Unwrap returns the error given with Else, or the cause when there is none.
func (e *GuardError) Unwrap() error {
	if e.Err == nil && e.Cause != nil {
		return e.Cause
	}
	return e.Err
}

// Reason says why a commit was refused.
type Reason uint8

// The reasons; the numbers are part of the format.
const (
	ReasonOverloaded Reason = 1 // the queue is full
	ReasonTooOld     Reason = 2 // the reads are older than the retained history
	ReasonTooLarge   Reason = 3 // beyond a limit
	ReasonDiskFull   Reason = 4
	ReasonExpired    Reason = 5 // after NotAfterMs, or its record was acknowledged already
	ReasonInvalid    Reason = 6 // malformed, or an integer guard on a row of bytes
	ReasonCancelled  Reason = 7 // Cancel was faster
	ReasonMismatch   Reason = 8 // the id was used for another commit
)

var reasonNames = [...]string{"", "overloaded", "too old", "too large", "disk full", "expired", "invalid", "cancelled",
	"id used for another commit"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "reason " + strconv.Itoa(int(r))
}

// Retry tells what a caller may do about the reason.
func (r Reason) Retry() RetryClass {
	switch r {
	case ReasonOverloaded, ReasonDiskFull:
		return RetryLater
	case ReasonTooOld, ReasonExpired, ReasonCancelled:
		return RetryAnew
	}
	return RetryNever
}

// RetryClass tells whether the same transaction may be tried again.
type RetryClass uint8

// The retry classes.
const (
	RetryNever RetryClass = iota // the transaction itself is wrong
	RetryLater                   // after a pause
	RetryAnew                    // from its first read
)

// RefusedError says that nothing was applied, and why.
type RefusedError struct {
	Reason Reason
	Retry  RetryClass
	Detail string
}

func (e *RefusedError) Error() string {
	if e.Detail == "" {
		return "refused: " + e.Reason.String()
	}
	return "refused: " + e.Reason.String() + ": " + e.Detail
}

// Refuse returns the answer of a refusal.
func Refuse(r Reason, format string, args ...any) *Answer {
	return &Answer{Outcome: OutcomeRefused, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
