package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// Digest is a running SHA-256.
type Digest struct{ hash.Hash }

// NewDigest returns one of nothing.
func NewDigest() Digest { return Digest{sha256.New()} }

// Text is the digest of what was written, in hexadecimal.
func (d Digest) Text() string { return hex.EncodeToString(d.Sum(nil)) }
