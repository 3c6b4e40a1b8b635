package transactor

import (
	"crypto/sha256"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
)

// Digest identifies a commit's bytes: equal commits have equal digests, for good.
func Digest(c *store.Commit) (digest [16]byte, err error) {
	b, err := cbor.Marshal(c)
	if err != nil {
		return digest, fmt.Errorf("encode commit %v: %w", c.ID, err)
	}
	sum := sha256.Sum256(b)
	copy(digest[:], sum[:])
	return digest, nil
}
