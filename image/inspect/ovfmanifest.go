package inspect

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // older appliances have nothing else, and damage is what is looked for
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"regexp"
	"strings"
)

// ovfManifestMax bounds the text of an appliance's manifest.
const ovfManifestMax = 64 << 10

// Digest is what an appliance's manifest says of a part of the file.
type Digest struct {
	Name          string // of the entry
	Offset, Bytes int64
	Algorithm     string // "SHA1", "SHA256" or "SHA512"
	Sum           []byte
}

// algorithms are those of DSP0243, and the one that came after it.
var algorithms = map[string]func() hash.Hash{"SHA1": sha1.New, "SHA256": sha256.New, "SHA512": sha512.New}

var ovfDigest = regexp.MustCompile(`^(SHA[0-9]+) ?\((.+)\) ?= ?([0-9A-Fa-f]+)$`)

// parseManifest reads an appliance's manifest, whose names are those of entries.
func parseManifest(text []byte, entries map[string]section) ([]Digest, error) {
	if len(text) > ovfManifestMax {
		return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("a manifest of more than %d bytes", ovfManifestMax), fixDamaged)
	}
	var all []Digest
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		m := ovfDigest.FindStringSubmatch(line)
		if m == nil {
			return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("its manifest's line %.120q is no digest", line), fixDamaged)
		}
		d := Digest{Name: path.Clean(m[2]), Algorithm: m[1]}
		begin, known := algorithms[d.Algorithm]
		if !known {
			return nil, ovaRefusal(ReasonFeature, fmt.Sprintf("its manifest's digests are %.20s", d.Algorithm), "export it again with SHA256 digests")
		}
		part, found := entries[d.Name]
		if !found {
			return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("its manifest names %.80q, which is not in it", d.Name), fixDamaged)
		}
		var err error
		if d.Sum, err = hex.DecodeString(m[3]); err != nil || len(d.Sum) != begin().Size() {
			return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("its manifest's digest of %.80q has a wrong length", d.Name), fixDamaged)
		}
		if seen[d.Name] { // each would be read once more
			return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("its manifest names %.80q twice", d.Name), fixDamaged)
		}
		seen[d.Name] = true
		d.Offset, d.Bytes = part.start, part.size
		all = append(all, d)
	}
	return all, nil
}

// Verify reads what the manifest of an appliance tells digests of, and refuses what has another. It reads each part once,
// so it is for who reads the file anyway; without a manifest it reads nothing.
func (i *Info) Verify(ctx context.Context, r io.ReaderAt) error {
	for _, d := range i.Digests {
		h := algorithms[d.Algorithm]()
		_, err := io.Copy(h, &interruptible{ctx, io.NewSectionReader(r, d.Offset, d.Bytes)})
		if err != nil {
			return fmt.Errorf("read image file: %w", err)
		}
		if !bytes.Equal(h.Sum(nil), d.Sum) {
			return ovaRefusal(ReasonDamaged, fmt.Sprintf("%.80q has not the %s digest that its manifest tells", d.Name, d.Algorithm), fixDamaged)
		}
	}
	return nil
}

// interruptible is a reader that a context ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
