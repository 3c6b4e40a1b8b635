package chunk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// ErrAbsent: there is no image, or no chunk, of that name.
var ErrAbsent = errors.New("no such image content")

// ErrDamaged: a chunk that a manifest lists is gone or has other bytes. The disk below lost what it had confirmed.
var ErrDamaged = errors.New("image content is damaged")

// Names in a store's directory.
const (
	chunksDir    = "chunks"    // chunks/ab/abcd…: content
	manifestsDir = "manifests" // manifests/DIGEST
	partPrefix   = ".part-"    // what is being written
)

// Store is a directory of chunks and manifests. One process writes it; any number may read it. It is safe for concurrent
// use.
type Store struct {
	dir     string
	damaged []string // manifests that could not be read at Open

	commit sync.Mutex // held while a manifest gets or loses its name; before mu

	mu      sync.Mutex
	refs    map[Sum]int    // by how many manifests a chunk is listed
	pins    map[Sum]int    // by how many writers it is in use
	readers map[string]int // open images, by digest
	writers int            // not closed yet
}

// Open opens the store in dir, which is made if need be, for writing, and counts references.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, refs: map[Sum]int{}, pins: map[Sum]int{}, readers: map[string]int{}}
	for _, sub := range []string{chunksDir, manifestsDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open chunk store: %w", err)
		}
	}
	digests, err := s.Images()
	if err != nil {
		return nil, err
	}
	for _, digest := range digests {
		m, err := readManifest(dir, digest)
		if errors.Is(err, ErrManifest) {
			s.damaged = append(s.damaged, digest)
			continue
		}
		if err != nil {
			return nil, err
		}
		s.count(m, 1)
	}
	return s, nil
}

// Damaged lists the images whose manifests could not be read at Open. They stay until the same content is stored again.
func (s *Store) Damaged() []string { return s.damaged }

// Images lists the digests of the images that are kept.
func (s *Store) Images() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, manifestsDir))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var digests []string
	for _, e := range entries {
		if IsDigest(e.Name()) {
			digests = append(digests, e.Name())
		}
	}
	return digests, nil
}

func readManifest(dir, digest string) (*Manifest, error) {
	if !IsDigest(digest) {
		return nil, fmt.Errorf("read manifest %.80q: %w", digest, ErrAbsent)
	}
	b, err := os.ReadFile(filepath.Join(dir, manifestsDir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read manifest %s: %w: %w", digest, ErrAbsent, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", digest, err)
	}
	m, err := DecodeManifest(b)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", digest, err)
	}
	return m, nil
}

// count adds n references to each chunk that m lists, once per chunk.
func (s *Store) count(m *Manifest, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[Sum]bool{{}: true}
	for _, sum := range m.Sums {
		if !seen[sum] {
			seen[sum] = true
			if s.refs[sum] += n; s.refs[sum] == 0 {
				delete(s.refs, sum)
			}
		}
	}
}

// Usage is what an image takes.
type Usage struct {
	Bytes  uint64 // of the disk
	Stored uint64 // of its chunks
	Own    uint64 // of its chunks that no other image lists
}

// Usage says what an image takes.
func (s *Store) Usage(digest string) (Usage, error) {
	m, err := readManifest(s.dir, digest)
	if err != nil {
		return Usage{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := Usage{Bytes: m.ImageBytes}
	seen := map[Sum]bool{{}: true}
	for i, sum := range m.Sums {
		if seen[sum] {
			continue
		}
		seen[sum] = true
		u.Stored += uint64(m.size(i))
		if s.refs[sum] == 1 {
			u.Own += uint64(m.size(i))
		}
	}
	return u, nil
}

func chunkPath(dir string, sum Sum) string {
	name := sum.String()
	return filepath.Join(dir, chunksDir, name[:2], name)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
