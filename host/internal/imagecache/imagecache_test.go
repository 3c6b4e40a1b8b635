package imagecache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbrel/nimbrel/image/chunk"
)

var content = append(append(make([]byte, 300<<10), "image"...), make([]byte, 300<<10)...)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func serve(b []byte) Fetch {
	return func(context.Context, string, uint64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

func open(t *testing.T, fetch Fetch) *Cache {
	t.Helper()
	c, err := Open(t.TempDir(), fetch)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEnsure(t *testing.T) {
	var fetches atomic.Int32
	c := open(t, func(ctx context.Context, digest string, size uint64) (io.ReadCloser, error) {
		fetches.Add(1)
		return serve(content)(ctx, digest, size)
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := c.Ensure(t.Context(), digestOf(content), uint64(len(content)))
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	wg.Wait()
	if fetches.Load() != 1 {
		t.Errorf("%d fetches, want 1", fetches.Load())
	}
}

func TestEnsureRefuses(t *testing.T) {
	other := bytes.Clone(content)
	other[0] = 1
	for name, c := range map[string]struct {
		fetch  Fetch
		digest string
		want   error
	}{
		"changed":    {serve(other), digestOf(content), ErrDigest},
		"short":      {serve(content[:len(content)-1]), digestOf(content), ErrDigest},
		"long":       {serve(append(bytes.Clone(content), 0)), digestOf(content), ErrDigest},
		"no source":  {nil, digestOf(content), ErrAbsent},
		"not there":  {FromDirectory(t.TempDir()), digestOf(content), ErrAbsent},
		"no digest":  {serve(content), "../../etc/passwd", nil},
		"upper case": {serve(content), "A" + digestOf(content)[1:], nil},
	} {
		cache := open(t, c.fetch)
		_, err := cache.Ensure(t.Context(), c.digest, uint64(len(content)))
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if left, _ := os.ReadDir(cache.dir); len(left) != 0 {
			t.Errorf("%s: %d files left", name, len(left))
		}
	}
}

// TestAbandonedFetch holds that one caller's cancelled fetch does not fail the others.
func TestAbandonedFetch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	var calls atomic.Int32
	c := open(t, func(ctx context.Context, digest string, size uint64) (io.ReadCloser, error) {
		if calls.Add(1) == 1 {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return serve(content)(ctx, digest, size)
	})
	first := make(chan error, 1)
	go func() { _, err := c.Ensure(ctx, digestOf(content), uint64(len(content))); first <- err }()
	<-started
	second := make(chan error, 1)
	go func() { _, err := c.Ensure(t.Context(), digestOf(content), uint64(len(content))); second <- err }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
}

func TestFromDirectory(t *testing.T) {
	whole, chunked := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(whole, digestOf(content)), content, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := chunk.Open(chunked)
	if err != nil {
		t.Fatal(err)
	}
	w, err := store.NewWriter(uint64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Put(0, content); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{whole, chunked} {
		path, err := open(t, FromDirectory(dir)).Ensure(t.Context(), digestOf(content), uint64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
}
