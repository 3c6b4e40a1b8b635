package chunk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// Image reads an image's disk from its chunks, checking each. It is for one goroutine.
type Image struct {
	*io.SectionReader
	close func()
}

// Close lets Collect take the image.
func (i *Image) Close() error {
	if i.close != nil {
		i.close()
		i.close = nil
	}
	return nil
}

// Open opens an image. Errors: ErrAbsent.
func (s *Store) Open(digest string) (*Image, error) {
	s.mu.Lock()
	s.readers[digest]++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.readers[digest]--; s.readers[digest] == 0 {
			delete(s.readers, digest)
		}
	}
	image, err := OpenImage(s.dir, digest)
	if err != nil {
		leave()
		return nil, err
	}
	image.close = leave
	return image, nil
}

// OpenImage opens an image in the directory of another process's store. Errors: ErrAbsent.
func OpenImage(dir, digest string) (*Image, error) {
	m, err := readManifest(dir, digest)
	if err != nil {
		return nil, err
	}
	return &Image{SectionReader: io.NewSectionReader(&chunks{dir: dir, manifest: m, at: -1}, 0, int64(m.ImageBytes))}, nil
}

// chunks is an io.ReaderAt that keeps the chunk read last.
type chunks struct {
	dir      string
	manifest *Manifest
	at       int // index of data; -1 none
	data     []byte
}

func (c *chunks) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) && uint64(offset) < c.manifest.ImageBytes {
		i, within := int(offset/Bytes), offset%Bytes
		if c.manifest.Sums[i] == (Sum{}) {
			k := int(min(int64(len(p)-n), c.manifest.size(i)-within))
			clear(p[n : n+k])
			n, offset = n+k, offset+int64(k)
			continue
		}
		if err := c.load(i); err != nil {
			return n, err
		}
		k := copy(p[n:], c.data[within:])
		n, offset = n+k, offset+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// load reads chunk i and checks it.
func (c *chunks) load(i int) error {
	if c.at == i {
		return nil
	}
	c.at = -1
	if c.data == nil {
		c.data = make([]byte, Bytes)
	}
	c.data = c.data[:c.manifest.size(i)]
	sum := c.manifest.Sums[i]
	if err := readChunk(c.dir, sum, c.data); err != nil {
		return fmt.Errorf("read chunk %d (%s): %w", i, sum, err)
	}
	c.at = i
	return nil
}

// readChunk fills data with a chunk of exactly its length.
func readChunk(dir string, sum Sum, data []byte) error {
	f, err := os.Open(chunkPath(dir, sum))
	if err != nil {
		return errors.Join(ErrDamaged, err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, data); err != nil {
		return errors.Join(ErrDamaged, err)
	}
	if sha256.Sum256(data) != sum {
		return ErrDamaged
	}
	return nil
}

// Chunk fills data with the chunk of that sum and length, if it is here and whole: listed by a manifest or not.
func (s *Store) Chunk(sum Sum, data []byte) bool { return readChunk(s.dir, sum, data) == nil }
