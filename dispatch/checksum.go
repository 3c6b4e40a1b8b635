package dispatch

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// Checksum is the sum modulo 2^128 of the digests of a section's live items. It does not depend on their order, and one
// change costs one digest. Tombstones do not count, so collecting them changes nothing.
type Checksum struct {
	_  struct{} `cbor:",toarray"`
	Hi uint64
	Lo uint64
}

// Add returns c with d added.
func (c Checksum) Add(d Checksum) Checksum {
	lo, carry := bits.Add64(c.Lo, d.Lo, 0)
	hi, _ := bits.Add64(c.Hi, d.Hi, carry)
	return Checksum{Hi: hi, Lo: lo}
}

// Sub returns c with d taken away.
func (c Checksum) Sub(d Checksum) Checksum {
	lo, borrow := bits.Sub64(c.Lo, d.Lo, 0)
	hi, _ := bits.Sub64(c.Hi, d.Hi, borrow)
	return Checksum{Hi: hi, Lo: lo}
}

func (c Checksum) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], c.Hi)
	binary.BigEndian.PutUint64(b[8:], c.Lo)
	return hex.EncodeToString(b[:])
}

// Digest is the first 128 bits of SHA-256 over the item's revision, key and payload as committed. A tombstone's is zero.
func (it *Item) Digest() Checksum {
	if it.Deleted {
		return Checksum{}
	}
	buf := make([]byte, 0, 256)
	buf = binary.LittleEndian.AppendUint64(buf, it.Rev)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(it.Key)))
	buf = append(buf, it.Key...)
	buf = append(buf, it.Payload...)
	sum := sha256.Sum256(buf)
	return Checksum{Hi: binary.BigEndian.Uint64(sum[:8]), Lo: binary.BigEndian.Uint64(sum[8:16])}
}
