package chunk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put stores a disk, leaving chunks of zeros out as a converter does.
func put(t testing.TB, s *Store, disk []byte) (digest string, wrote uint64) {
	t.Helper()
	w := fill(t, s, disk)
	defer w.Close()
	digest, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return digest, w.Wrote()
}

// fill writes all chunks of a disk and does not commit.
func fill(t testing.TB, s *Store, disk []byte) *Writer {
	t.Helper()
	w, err := s.NewWriter(uint64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(disk); at += Bytes {
		part := disk[at:min(len(disk), at+Bytes)]
		if bytes.Equal(part, zeros[:len(part)]) && at%(2*Bytes) == 0 {
			continue
		}
		if err := w.Put(uint64(at), part); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// disk is n chunks and a sector of bytes that depend on seed; every third chunk is zeros.
func disk(seed byte, n int) []byte {
	b := make([]byte, n*Bytes+512)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	for i := 2; i < n; i += 3 {
		clear(b[i*Bytes : (i+1)*Bytes])
	}
	return b
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func read(t testing.TB, s *Store, digest string) []byte {
	t.Helper()
	i, err := s.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	b, err := io.ReadAll(i)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, b := range [][]byte{disk(1, 7), disk(2, 3)[:3*Bytes], make([]byte, 5*Bytes), {1}} {
		digest, _ := put(t, s, b)
		if digest != digestOf(b) || !bytes.Equal(read(t, openStore(t, dir), digest), b) {
			t.Errorf("%d bytes came back otherwise", len(b))
		}
	}
	b := disk(1, 7)
	image, err := s.Open(digestOf(b))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	for range 200 {
		at, p := rand.IntN(len(b)), make([]byte, 1+rand.IntN(3*Bytes))
		if n, err := image.ReadAt(p, int64(at)); !bytes.Equal(p[:n], b[at:min(len(b), at+len(p))]) || (err != nil) != (n < len(p)) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), at, n, err)
		}
	}
	for _, digest := range []string{digestOf([]byte("none")), "../chunks", ""} {
		if _, err := s.Open(digest); !errors.Is(err, ErrAbsent) {
			t.Errorf("open %q: %v", digest, err)
		}
	}
}

// TestSecondImport holds that a changed image stores its changed chunks, and none that is zeros.
func TestSecondImport(t *testing.T) {
	s := openStore(t, t.TempDir())
	b := disk(1, 30)
	first, wrote := put(t, s, b)
	if want := uint64(20*Bytes + 512); wrote != want {
		t.Errorf("first import wrote %d, want %d", wrote, want)
	}
	b[4*Bytes+9] ^= 1
	second, wrote := put(t, s, b)
	if wrote != Bytes {
		t.Errorf("second import wrote %d, want one chunk", wrote)
	}
	if _, wrote := put(t, s, b); wrote != 0 {
		t.Errorf("the same again wrote %d", wrote)
	}
	u, err := s.Usage(second)
	if err != nil || u.Own != Bytes || u.Stored != 20*Bytes+512 || u.Bytes != uint64(len(b)) {
		t.Errorf("usage %+v, %v", u, err)
	}
	if u, err := s.Usage(first); err != nil || u.Own != Bytes {
		t.Errorf("usage of the first %+v, %v", u, err)
	}
}

func TestPutRefuses(t *testing.T) {
	s := openStore(t, t.TempDir())
	for name, do := range map[string]func(w *Writer) error{
		"not aligned":    func(w *Writer) error { return w.Put(1, zeros[:]) },
		"short":          func(w *Writer) error { return w.Put(0, zeros[:1]) },
		"long":           func(w *Writer) error { return w.Put(Bytes, zeros[:]) },
		"beyond the end": func(w *Writer) error { return w.Put(2*Bytes, zeros[:1]) },
		"twice":          func(w *Writer) error { return errors.Join(w.Put(0, zeros[:]), w.Put(0, zeros[:])) },
	} {
		w, err := s.NewWriter(Bytes + 1)
		if err != nil {
			t.Fatal(err)
		}
		if do(w) == nil {
			t.Errorf("%s: accepted", name)
		}
		w.Close()
	}
	for _, size := range []uint64{0, MaxImageBytes + 1} {
		if _, err := s.NewWriter(size); err == nil {
			t.Errorf("%d bytes: accepted", size)
		}
	}
}

// TestTornChunk holds that a chunk that a crash left torn under its name is not believed.
func TestTornChunk(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	b := disk(1, 2)
	fill(t, s, b).Close() // the process dies before Commit, and the machine after it
	sum := Sum(sha256.Sum256(b[:Bytes]))
	path := chunkPath(dir, sum)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if s.Chunk(sum, make([]byte, Bytes)) {
		t.Error("a torn chunk is offered for an upload")
	}
	digest, wrote := put(t, s, b)
	if wrote != Bytes || !bytes.Equal(read(t, s, digest), b) {
		t.Errorf("wrote %d", wrote)
	}
}

func TestDamageIsSeen(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	b := disk(1, 2)
	digest, _ := put(t, s, b)
	path := chunkPath(dir, Sum(sha256.Sum256(b[:Bytes])))
	bad := bytes.Clone(b[:Bytes])
	bad[5] ^= 1
	os.Remove(path)
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := s.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := io.ReadAll(image); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
	manifest := filepath.Join(dir, manifestsDir, digest)
	os.Remove(manifest)
	if err := os.WriteFile(manifest, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if d := s.Damaged(); len(d) != 1 || d[0] != digest {
		t.Errorf("damaged: %v", d)
	}
	if _, err := s.Collect(time.Now().Add(time.Hour), 0, func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	put(t, s, b) // the same content again repairs both
	if !bytes.Equal(read(t, openStore(t, dir), digest), b) {
		t.Error("not repaired")
	}
}

// TestCollect holds that what an image lists, a writer uses, a reader reads or is young stays, and the rest goes.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	later := time.Now().Add(2 * time.Hour)
	kept, gone := disk(1, 6), disk(1, 6)
	rand.NewChaCha8([32]byte{9}).Read(gone[3*Bytes : 5*Bytes])
	keptDigest, _ := put(t, s, kept)
	goneDigest, _ := put(t, s, gone)
	fill(t, s, disk(3, 2)).Close() // abandoned
	busy := fill(t, s, disk(4, 2)) // under way
	part := filepath.Join(dir, chunksDir, partPrefix+"1")
	os.WriteFile(part, nil, 0o600)
	keep := func(digest string) bool { return digest == keptDigest }

	if done, err := s.Collect(time.Now(), time.Hour, keep); err != nil || done != (Collected{}) {
		t.Errorf("of young things: %+v, %v", done, err)
	}
	reader, err := s.Open(goneDigest)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := s.Collect(later, time.Hour, keep); err != nil || done.Images != 0 || done.Chunks != 3 {
		t.Errorf("while it is read: %+v, %v", done, err)
	}
	if b, err := io.ReadAll(reader); err != nil || !bytes.Equal(b, gone) {
		t.Errorf("the reader: %v", err)
	}
	reader.Close()
	if done, err := s.Collect(later, time.Hour, keep); err != nil || done != (Collected{Images: 1, Chunks: 2, Bytes: 2 * Bytes}) {
		t.Errorf("then: %+v, %v", done, err)
	}
	digest, err := busy.Commit(t.Context())
	if err != nil || !bytes.Equal(read(t, s, digest), disk(4, 2)) {
		t.Errorf("the image under way: %v", err)
	}
	busy.Close()
	if _, err := s.Collect(later, time.Hour, keep); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(part); err == nil {
		t.Error("the rest of a write stays")
	}
	if !bytes.Equal(read(t, s, keptDigest), kept) {
		t.Error("the kept image changed")
	}
}

// TestCrashAnywhere ends an import, or a removal, before each of its steps on disk, and holds that every manifest that is
// there reads whole and that the next import and collection work. Steps are told apart by what lies in the directory.
func TestCrashAnywhere(t *testing.T) {
	b := disk(5, 4)
	for steps := 0; steps <= 4; steps++ {
		dir := t.TempDir()
		s := openStore(t, dir)
		base, _ := put(t, s, disk(6, 2))
		w, err := s.NewWriter(uint64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(steps, len(w.manifest.Sums)) {
			if err := w.Put(uint64(i)*Bytes, b[i*Bytes:min(len(b), (i+1)*Bytes)]); err != nil {
				t.Fatal(err)
			}
		}
		if steps == 4 { // chunks durable, manifest written beside
			if err := w.sync(context.Background()); err != nil {
				t.Fatal(err)
			}
			os.WriteFile(filepath.Join(dir, manifestsDir, partPrefix+"x"), w.manifest.Encode()[:50], 0o600)
		}
		s = openStore(t, dir) // the process died
		if images, err := s.Images(); err != nil || len(images) != 1 || images[0] != base {
			t.Fatalf("step %d: %v, %v", steps, images, err)
		}
		digest, _ := put(t, s, b)
		if _, err := s.Collect(time.Now().Add(time.Hour), 0, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, s, digest), b) || !bytes.Equal(read(t, s, base), disk(6, 2)) {
			t.Errorf("step %d: content changed", steps)
		}
	}
	dir := t.TempDir()
	s := openStore(t, dir)
	digest, _ := put(t, s, b)
	if err := os.Remove(filepath.Join(dir, manifestsDir, digest)); err != nil { // a removal that died before the chunks
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if done, err := s.Collect(time.Now().Add(time.Hour), 0, nil); err != nil || done.Chunks != 4 {
		t.Errorf("after half a removal: %+v, %v", done, err)
	}
}

// TestConcurrentImports stores images that share chunks from many goroutines while others collect.
func TestConcurrentImports(t *testing.T) {
	s := openStore(t, t.TempDir())
	var wg sync.WaitGroup
	digests := make([]string, 8)
	for i := range digests {
		wg.Go(func() {
			b := disk(1, 3)
			b[0] = byte(i / 2) // two of each
			w := fill(t, s, b)
			defer w.Close()
			digest, err := w.Commit(context.Background())
			if err != nil {
				t.Error(err)
			}
			digests[i] = digest
			if _, err := s.Collect(time.Now().Add(time.Hour), 0, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, digest := range digests {
		b := disk(1, 3)
		b[0] = byte(i / 2)
		if !bytes.Equal(read(t, s, digest), b) {
			t.Errorf("image %d changed", i)
		}
	}
	done, err := s.Collect(time.Now().Add(time.Hour), 0, func(string) bool { return false })
	if err != nil || done.Images != 4 || len(s.refs) != 0 {
		t.Errorf("%+v, %v, %d references left", done, err, len(s.refs))
	}
}

func FuzzManifest(f *testing.F) {
	f.Add((&Manifest{ImageBytes: Bytes + 1, Sums: []Sum{{1}, {}}}).Encode())
	f.Add((&Manifest{}).Encode())
	f.Add([]byte(manifestMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Error("another manifest comes out")
		}
	})
}
