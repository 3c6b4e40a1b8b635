package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/image"
)

// parts cuts a file as a client does.
func parts(file []byte) (chunks [][]byte, sums []byte) {
	for part := range slices.Chunk(file, image.UploadChunkBytes) {
		sum := sha256.Sum256(part)
		chunks, sums = append(chunks, part), append(sums, sum[:]...)
	}
	return chunks, sums
}

func (c *catalog) begin(file []byte) image.Upload {
	c.t.Helper()
	_, sums := parts(file)
	u, err := c.BeginUpload(c.ctx, uint64(len(file)), sums)
	if err != nil {
		c.t.Fatalf("begin upload: %v", err)
	}
	return u
}

// send puts the missing chunks, at most n.
func (c *catalog) send(u image.Upload, file []byte, n int) {
	c.t.Helper()
	chunks, _ := parts(file)
	for _, i := range u.Missing[:min(n, len(u.Missing))] {
		if err := c.PutUpload(c.ctx, u.ID, i, chunks[i]); err != nil {
			c.t.Fatalf("put chunk %d: %v", i, err)
		}
	}
}

var registration = image.Registration{Owner: owner, Name: "uploaded", Architecture: "x86_64"}

// restarted is the catalog of a server that was killed and started again on the same directory.
func (c *catalog) restarted() *catalog {
	o := c.options
	again := *c
	again.Service = New(c.db, o)
	return &again
}

func randomFile(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestUploadGoesOn(t *testing.T) {
	c := newCatalog(t)
	file := randomFile(5<<20 + 512)
	clear(file[2<<20 : 3<<20])
	u := c.begin(file)
	if !slices.Equal(u.Missing, []uint32{0, 1, 3, 4, 5}) { // zeros are there without being sent
		t.Fatalf("missing at first: %v", u.Missing)
	}
	c.send(u, file, 3)
	if again := c.begin(file); again.ID != u.ID || !slices.Equal(again.Missing, []uint32{4, 5}) {
		t.Errorf("missing after an interruption: %v", again.Missing)
	}
	c2 := c.restarted()
	chunks, _ := parts(file)
	if err := c2.PutUpload(c.ctx, u.ID, 4, chunks[4]); !errors.Is(err, image.ErrNoUpload) {
		t.Errorf("put to a server that was started anew: %v", err)
	}
	path := filepath.Join(c.options.Dir, "uploads", u.ID)
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // the crash tore a chunk
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(make([]byte, 4096), 1<<20)
	f.Close()
	u = c2.begin(file)
	if !slices.Equal(u.Missing, []uint32{1, 4, 5}) {
		t.Errorf("missing after a crash: %v", u.Missing)
	}
	if _, err := c2.FinishUpload(c.ctx, u.ID, registration, nil); err == nil || !strings.Contains(err.Error(), "3 chunks") {
		t.Errorf("finish too early: %v", err)
	}
	c2.send(u, file, 9)
	var last uint64
	made, err := c2.FinishUpload(c.ctx, u.ID, registration, func(done, total uint64) {
		if done <= last || total != uint64(len(file)) {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || made.Format != "raw" || made.StoredBytes != uint64(len(file))-1<<20 || last != uint64(len(file)) {
		t.Fatalf("finish: %+v, %v, progress %d", made, err, last)
	}
	if !bytes.Equal(c2.content(made.SHA256), file) {
		t.Error("content differs")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("%d uploads left", len(left))
	}
}

// TestChangedFile holds that of a changed file only what changed is sent and stored.
func TestChangedFile(t *testing.T) {
	c := newCatalog(t)
	file := randomFile(8 << 20)
	u := c.begin(file)
	c.send(u, file, 99)
	if _, err := c.FinishUpload(c.ctx, u.ID, registration, nil); err != nil {
		t.Fatal(err)
	}
	file[3<<20+77] ^= 1
	u = c.begin(file)
	if !slices.Equal(u.Missing, []uint32{3}) {
		t.Errorf("missing of the changed file: %v", u.Missing)
	}
	c.send(u, file, 99)
	made, err := c.FinishUpload(c.ctx, u.ID, registration, nil)
	if err != nil || made.StoredBytes != 1<<20 || !bytes.Equal(c.content(made.SHA256), file) {
		t.Errorf("the second import: %+v, %v", made, err)
	}
}

func TestUploadRefusals(t *testing.T) {
	c := newCatalog(t)
	c.options.MaxDiskBytes = 4 << 20
	refused := func(name string, err error) {
		t.Helper()
		var invalid *image.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "content" {
			t.Errorf("%s: %v", name, err)
		}
	}
	begin := func(bytes uint64, sums []byte) error {
		_, err := c.BeginUpload(c.ctx, bytes, sums)
		return err
	}
	refused("empty", begin(0, nil))
	refused("too large", begin(8<<20+1, make([]byte, 9*32)))
	refused("sums", begin(2<<20, make([]byte, 32)))
	file := randomFile(2 << 20)
	chunks, _ := parts(file)
	u := c.begin(file)
	refused("other bytes", c.PutUpload(c.ctx, u.ID, 0, chunks[1]))
	refused("short", c.PutUpload(c.ctx, u.ID, 0, chunks[0][:5]))
	refused("index", c.PutUpload(c.ctx, u.ID, 2, chunks[0]))
	for _, id := range []string{"", "../../etc", strings.Repeat("0", 64)} {
		if err := c.PutUpload(c.ctx, id, 0, chunks[0]); !errors.Is(err, image.ErrNoUpload) {
			t.Errorf("upload %q: %v", id, err)
		}
	}
	backing := make([]byte, 1<<20)
	copy(backing, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x04\x00\x00\x00\x10")
	copy(backing[512:], "/etc")
	u = c.begin(backing)
	c.send(u, backing, 9)
	_, err := c.FinishUpload(c.ctx, u.ID, registration, nil)
	refused("backing file", err)
	if err == nil || !strings.Contains(err.Error(), `backing file ("/etc")`) {
		t.Errorf("the refusal says %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.options.Dir, "uploads", u.ID)); err == nil {
		t.Error("a refused upload stays")
	}
	large := randomFile(5 << 20)
	u = c.begin(large)
	c.send(u, large, 9)
	_, err = c.FinishUpload(c.ctx, u.ID, registration, nil)
	refused("larger than a disk may be", err)
	c.options.MaxAccountBytes = 3 << 20
	c.register(c.source("a", "x", 2<<20))
	c.describe(owner) // the view has it
	_, err = c.RegisterLocal(c.ctx, image.Registration{Path: c.source("b", "y", 2<<20), Owner: owner, Name: "other", Architecture: "x86_64"})
	refused("more than the account may have", err)
	c.options.MaxAccountImages = 1
	var limit *image.LimitError
	if _, err := c.RegisterLocal(c.ctx, image.Registration{Path: c.source("c", "z", 0), Owner: owner, Name: "second", Architecture: "x86_64"}); !errors.As(err, &limit) || limit.Max != 1 {
		t.Errorf("more images than the account may have: %v", err)
	}
}

func TestUploadsAreBounded(t *testing.T) {
	c := newCatalog(t)
	for i := range image.MaxUploads {
		c.begin([]byte{byte(i)})
	}
	if _, err := c.BeginUpload(c.ctx, 1, make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("one more: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(c.options.Dir, "uploads"))
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * uploadAge)
	if err := os.Chtimes(filepath.Join(c.options.Dir, "uploads", entries[0].Name()), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginUpload(c.ctx, 1, make([]byte, 32)); err != nil {
		t.Errorf("after one was abandoned: %v", err)
	}
}

// TestWaitForUploadEnds holds that who waits while another finishes the same upload does not wait for longer than it wants.
func TestWaitForUploadEnds(t *testing.T) {
	c := newCatalog(t)
	file := randomFile(2 << 20)
	chunks, sums := parts(file)
	u := c.begin(file)
	busy, err := c.upload(u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.take(c.ctx); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"begin":  func(ctx context.Context) error { _, err := c.BeginUpload(ctx, uint64(len(file)), sums); return err },
		"put":    func(ctx context.Context) error { return c.PutUpload(ctx, u.ID, 0, chunks[0]) },
		"finish": func(ctx context.Context) error { _, err := c.FinishUpload(ctx, u.ID, registration, nil); return err },
	} {
		ctx, cancel := context.WithCancel(c.ctx)
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s still waits", name)
		}
	}
	busy.release()
	if again := c.begin(file); len(again.Missing) != 2 {
		t.Errorf("afterwards: %+v", again)
	}
}

// TestFinishOfEndedUpload: two clients import one file. The one that waits while the other finishes must not take the file
// of a third upload of the same name, which has just begun, for its own.
func TestFinishOfEndedUpload(t *testing.T) {
	c := newCatalog(t)
	file := randomFile(2 << 20)
	u := c.begin(file)
	c.send(u, file, 2)
	ended, err := c.upload(u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.FinishUpload(c.ctx, u.ID, registration, nil); err != nil {
		t.Fatal(err)
	}
	if err := ended.take(c.ctx); !errors.Is(err, image.ErrNoUpload) {
		t.Errorf("who waited for the upload that ended: %v", err)
	}
	if again := c.begin(file); again.ID != u.ID || len(again.Missing) != 0 {
		t.Errorf("begun anew: %+v", again) // the chunk store has it all: this was a raw disk
	}
}
