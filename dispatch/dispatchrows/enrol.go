package dispatchrows

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

// Token is what a join token allows. Only its hash is stored.
type Token struct {
	ExpiryMs int64  `cbor:"1,keyasint"`
	Target   string `cbor:"2,keyasint"`           // a name, which may then be taken over, or a prefix ending in "/"
	UsedFor  []byte `cbor:"3,keyasint,omitempty"` // "target\x00" and SHA-256 of the key it was redeemed for
}

// Identity is the key that speaks for a target.
type Identity struct {
	KeyHash []byte `cbor:"1,keyasint"` // SHA-256 of the public key in PKIX form; empty when revoked
}

func tokenKey(token string) store.Template {
	hash := sha256.Sum256([]byte(token))
	return store.Key(Prefix, tableToken, hash[:])
}

func identityKey(target string) store.Template { return store.Key(Prefix, tableIdentity, target) }

// PutToken stores a token. The text itself must have at least 128 random bits.
func PutToken(tx *store.Tx, token string, t Token) {
	tx.Put(tokenKey(token), row.Encode(t))
}

// Redeem uses a token up for a target and its key. The same target with the same key may redeem it again until it
// expires, so that a lost answer does no harm. A taken name needs a token for that very name, and then the epoch is
// raised. Errors: dispatch.ErrTokenInvalid, dispatch.ErrTargetExists.
func Redeem(ctx context.Context, tx *store.Tx, token, target string, keyHash []byte, now time.Time) error {
	t, err := readToken(ctx, tx, token, target, now)
	if err != nil {
		return err
	}
	use := append([]byte(target+"\x00"), keyHash...)
	if len(t.UsedFor) > 0 {
		if !bytes.Equal(t.UsedFor, use) {
			return dispatch.ErrTokenInvalid
		}
		return nil
	}
	v, found, err := tx.Get(ctx, identityKey(target).Base)
	if err != nil {
		return err
	}
	if found {
		if t.Target != target {
			return fmt.Errorf("join %s: %w", target, dispatch.ErrTargetExists)
		}
		if old, err := DecodeIdentity(v); err != nil {
			return err
		} else if !bytes.Equal(old.KeyHash, keyHash) {
			RaiseEpoch(tx, target)
		}
	}
	t.UsedFor = use
	PutToken(tx, token, t)
	PutIdentity(tx, target, keyHash)
	return nil
}

// LookUpToken says whether a token may still be redeemed by some key of the target. Errors: dispatch.ErrTokenInvalid.
func LookUpToken(ctx context.Context, r store.Reader, token, target string, now time.Time) error {
	_, err := readToken(ctx, r, token, target, now)
	return err
}

func readToken(ctx context.Context, r store.Reader, token, target string, now time.Time) (Token, error) {
	v, found, err := r.Get(ctx, tokenKey(token).Base)
	if err != nil {
		return Token{}, err
	}
	if !found {
		return Token{}, dispatch.ErrTokenInvalid
	}
	t, err := row.Decode[Token](v.Bytes)
	if err != nil {
		return Token{}, fmt.Errorf("decode join token: %w", err)
	}
	if now.UnixMilli() > t.ExpiryMs || !allows(t.Target, target) {
		return Token{}, dispatch.ErrTokenInvalid
	}
	return t, nil
}

// allows tells whether a token's target, a name or a prefix ending in a slash, covers a name.
func allows(pattern, target string) bool {
	if n := len(pattern); n > 0 && pattern[n-1] == '/' {
		return len(target) > n && target[:n] == pattern
	}
	return pattern == target
}

// Revoke makes a target's key worthless: its sessions are refused from then on.
func Revoke(tx *store.Tx, target string) {
	PutIdentity(tx, target, []byte{})
}

// DecodeIdentity reads an identity's row.
func DecodeIdentity(v store.Value) (Identity, error) { return row.Decode[Identity](v.Bytes) }

// CollectTokens removes tokens whose time is over; used ones stay until then.
func CollectTokens(ctx context.Context, tx *store.Tx, now time.Time) error {
	return Scan(ctx, tx, store.Prefix(Prefix, tableToken), func(kv store.KV) error {
		t, err := row.Decode[Token](kv.Value.Bytes)
		if err == nil && now.UnixMilli() > t.ExpiryMs {
			tx.Delete(store.RawKey(kv.Key))
		}
		return err
	})
}

// PutIdentity registers a target's key without a token, for targets made by the server's own side.
func PutIdentity(tx *store.Tx, target string, keyHash []byte) {
	tx.Put(identityKey(target), row.Encode(Identity{KeyHash: keyHash}))
}
