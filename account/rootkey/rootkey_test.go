package rootkey

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestSealOpensOnlyForItsPurpose(t *testing.T) {
	k, err := New(make([]byte, 32), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.Seal([]byte("secret"), "key AKIA1")
	if got, err := k.Unseal(sealed, "key AKIA1"); err != nil || string(got) != "secret" {
		t.Fatalf("Unseal = %q, %v", got, err)
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Fatal("sealed value shows the secret")
	}
	if _, err := k.Unseal(sealed, "key AKIA2"); !errors.Is(err, ErrSealed) {
		t.Fatalf("other purpose: %v", err)
	}
	for i := range sealed {
		broken := bytes.Clone(sealed)
		broken[i] ^= 1
		if _, err := k.Unseal(broken, "key AKIA1"); !errors.Is(err, ErrSealed) {
			t.Fatalf("flipped byte %d opens: %v", i, err)
		}
	}
	if _, err := k.Unseal(sealed[:5], "key AKIA1"); !errors.Is(err, ErrSealed) {
		t.Fatal("short value opens")
	}
	if _, err := New([]byte("short"), rand.Reader); err == nil {
		t.Fatal("a short key was accepted")
	}
}

func TestOpenMakesTheFileOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	first, err := Open(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	again, err := Open(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Unseal(first.Seal([]byte("x"), "p"), "p"); err != nil || string(got) != "x" {
		t.Fatalf("reopened key: %q, %v", got, err)
	}
	if left, _ := filepath.Glob(path + ".new-*"); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestOpenAgreesUnderARace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	keys := make([]*Key, 8)
	var wait sync.WaitGroup
	for i := range keys {
		wait.Go(func() {
			var err error
			if keys[i], err = Open(path, rand.Reader); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	sealed := keys[0].Seal([]byte("x"), "p")
	for i, k := range keys {
		if _, err := k.Unseal(sealed, "p"); err != nil {
			t.Errorf("key %d differs", i)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	if _, err := Open(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, rand.Reader); err == nil {
		t.Error("a group-readable key was accepted")
	}
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, rand.Reader); err == nil {
		t.Error("a damaged key was accepted")
	}
}
