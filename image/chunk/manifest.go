package chunk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Bytes is the size of a chunk; the last of an image may be shorter.
const Bytes = 1 << 20

// MaxImageBytes bounds an image, and with it a manifest: 16 TiB, 512 MiB of hashes.
const MaxImageBytes = 16 << 40

// Sum names a chunk. The zero Sum stands for a chunk of zeros.
type Sum [sha256.Size]byte

func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Manifest lists the chunks of an image.
type Manifest struct {
	ImageBytes uint64
	Sums       []Sum // as many as ImageBytes needs
}

// ErrManifest: the bytes are no manifest, or a damaged one.
var ErrManifest = errors.New("not a manifest, or damaged")

// manifestMagic begins every manifest; its last byte is the version of the format.
const manifestMagic = "nbchunk\x01"

// Encode is the magic, the image's size, the sums, and a SHA-256 over all of that.
func (m *Manifest) Encode() []byte {
	b := make([]byte, 0, len(manifestMagic)+8+len(m.Sums)*sha256.Size+sha256.Size)
	b = append(b, manifestMagic...)
	b = binary.BigEndian.AppendUint64(b, m.ImageBytes)
	for _, s := range m.Sums {
		b = append(b, s[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// DecodeManifest reads what Encode wrote. The error is ErrManifest.
func DecodeManifest(b []byte) (*Manifest, error) {
	const head = len(manifestMagic) + 8
	if len(b) < head+sha256.Size || string(b[:len(manifestMagic)]) != manifestMagic {
		return nil, ErrManifest
	}
	body, sum := b[:len(b)-sha256.Size], Sum(b[len(b)-sha256.Size:])
	m := &Manifest{ImageBytes: binary.BigEndian.Uint64(b[len(manifestMagic):])}
	if sha256.Sum256(body) != sum || m.ImageBytes > MaxImageBytes || uint64(len(body)-head) != Count(m.ImageBytes)*sha256.Size {
		return nil, ErrManifest
	}
	m.Sums = make([]Sum, Count(m.ImageBytes))
	for i := range m.Sums {
		m.Sums[i] = Sum(body[head+i*sha256.Size:])
	}
	return m, nil
}

// Count is the number of chunks of so many bytes.
func Count(imageBytes uint64) uint64 { return (imageBytes + Bytes - 1) / Bytes }

// size is how many bytes chunk i has.
func (m *Manifest) size(i int) int64 {
	return int64(min(Bytes, m.ImageBytes-uint64(i)*Bytes))
}

// IsDigest says whether s names an image: it becomes a file's name.
func IsDigest(s string) bool {
	if len(s) != hex.EncodedLen(sha256.Size) {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func parseSum(s string) (Sum, error) {
	if !IsDigest(s) {
		return Sum{}, fmt.Errorf("chunk name %.80q: want 64 lower-case hexadecimal digits", s)
	}
	b, err := hex.DecodeString(s)
	return Sum(b), err
}
