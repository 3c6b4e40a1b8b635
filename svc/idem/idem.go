// Package idem keeps client tokens: the record that makes a repeated request answer with what the first one made.
//
// A record is claimed in the transaction that creates the resource, so both exist or neither does. A replay is rendered
// by the resource's owner from its present state; the record only names the resource and a fingerprint of the request.
//
// Invariants: one record per account, action and token; a record names a resource that exists, so an owner keeps the
// resource's row while the record lives (see Held). Records live for Lifetime, then Collect removes them.
//
// Deliberately absent: answers. What was true at the first answer is not what a client of today needs.
//
// Start at Claim and Find.
package idem

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

const (
	// Lifetime is how long a token is remembered.
	Lifetime = 24 * time.Hour
	// MaxTokenBytes is EC2's bound of a client token.
	MaxTokenBytes = 64
	// collectBatch bounds the records that one transaction of Collect removes.
	collectBatch = 256
)

// ErrClaimed is the guard's error when the token is taken: look at the record (Find, or FromError) and replay.
var ErrClaimed = errors.New("client token is claimed")

// TokenError reports a token that no client should send.
type TokenError struct{ Reason string }

func (e *TokenError) Error() string { return "invalid client token: " + e.Reason }

// MismatchError reports a token that was used with another request (IdempotentParameterMismatch).
type MismatchError struct{ Scope Scope }

func (e *MismatchError) Error() string {
	return fmt.Sprintf("client token %q was used with other parameters in %s; send the same request, or another token", e.Scope.Token, e.Scope.Action)
}

// Scope is what a token is unique in.
type Scope struct {
	Account ids.Account
	Action  string
	Token   string
}

// Validate checks the token as a client sent it.
func (s Scope) Validate() error {
	if s.Token == "" || len(s.Token) > MaxTokenBytes {
		return &TokenError{Reason: fmt.Sprintf("it has %d characters: want 1 to %d", len(s.Token), MaxTokenBytes)}
	}
	if strings.IndexFunc(s.Token, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		return &TokenError{Reason: "it holds characters that are not printable ASCII"}
	}
	return nil
}

func (s Scope) key() store.Template {
	return store.Key("idem", "record", s.Account, s.Action, s.Token)
}

// Fingerprint identifies a request's parameters.
type Fingerprint [sha256.Size]byte

// Print fingerprints a request: v's canonical encoding (sorted maps), so that the order in which a client sends
// parameters does not matter. v is of the caller's own types: what cannot be encoded is the caller's mistake.
func Print(v any) Fingerprint {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	assert.That(err == nil, "canonical encoding: %v", err)
	b, err := mode.Marshal(v)
	assert.That(err == nil, "fingerprint of %T: %v", v, err)
	return sha256.Sum256(b)
}

// Record is what is remembered of a token.
type Record struct {
	Print     Fingerprint `cbor:"1,keyasint"`
	Resource  string      `cbor:"2,keyasint"` // the owner's name of what was made
	CreatedMs int64       `cbor:"3,keyasint"`
}

// Claim makes the record, or fails the transaction with ErrClaimed. It reads nothing.
func Claim(tx *store.Tx, s Scope, print Fingerprint, resource string, now time.Time) {
	record := Record{Print: print, Resource: resource, CreatedMs: now.UnixMilli()}
	tx.InsertIfAbsent(s.key(), row.Encode(record), store.Else(ErrClaimed))
	tx.Put(expiryKey(record.CreatedMs, s), row.Encode(record))
}

// Check returns a *MismatchError unless the request is the one that the record was made for.
func (r Record) Check(s Scope, print Fingerprint) error {
	if r.Print != print {
		return &MismatchError{Scope: s}
	}
	return nil
}

// Find reads a token's record.
func Find(ctx context.Context, r store.Reader, s Scope) (Record, bool, error) {
	value, found, err := r.Get(ctx, s.key().Base)
	if err != nil || !found {
		return Record{}, false, err
	}
	record, err := row.Decode[Record](value.Bytes)
	return record, err == nil, err
}

// FromError returns the record that a transaction's Claim met, with no further read.
func FromError(err error) (Record, bool) {
	var failed *store.GuardError
	if !errors.Is(err, ErrClaimed) || !errors.As(err, &failed) {
		return Record{}, false
	}
	record, err := row.Decode[Record](failed.Value.Bytes)
	return record, err == nil
}

// Released is a condition for transactions that remove a resource: its token's record is gone, or the transaction fails
// with err. An empty token holds always.
func Released(tx *store.Tx, s Scope, err error) {
	if s.Token != "" {
		tx.Expect(s.key(), store.Absent(), store.Else(err))
	}
}

// expiryKey orders records by age, for Collect.
func expiryKey(createdMs int64, s Scope) store.Template {
	return store.Key("idem", "age", uint64(createdMs), s.Account, s.Action, s.Token)
}
