// Package rootkey keeps the one secret that seals all others at rest.
//
// The key is a file with mode 0600, made at the first start and never sent anywhere. Whoever has the file and the store
// has every secret in it; whoever loses the file must make new access keys. A sealed value is bound to its purpose, so
// that a value copied from one row to another does not open.
//
// Deliberately absent: rotation and keys held by other machines.
package rootkey

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbrel/nimbrel/internal/assert"
)

// keyBytes makes it AES-256.
const keyBytes = 32

// fileHeader begins the file; the key follows in hexadecimal.
const fileHeader = "nimbrel-root-key-1 "

// sealVersion is the first byte of every sealed value: AES-256-GCM, nonce of 12 bytes, then the ciphertext with its tag.
const sealVersion = 1

// ErrSealed reports bytes that this key did not seal for this purpose.
var ErrSealed = errors.New("sealed value does not open with this root key")

// Key seals and opens secrets. It is safe for concurrent use.
type Key struct {
	aead   cipher.AEAD
	random io.Reader
}

// New returns a key of 32 bytes. random gives nonces; it must not fail.
func New(key []byte, random io.Reader) (*Key, error) {
	if len(key) != keyBytes {
		return nil, fmt.Errorf("use root key: %d bytes, want %d", len(key), keyBytes)
	}
	block, err := aes.NewCipher(key)
	assert.That(err == nil, "AES takes a key of %d bytes: %v", keyBytes, err)
	aead, err := cipher.NewGCM(block)
	assert.That(err == nil, "GCM over AES: %v", err)
	return &Key{aead: aead, random: random}, nil
}

// Open reads the key file at path, and makes it first if there is none. A file that others may read is refused.
func Open(path string, random io.Reader) (*Key, error) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(path, random); err == nil {
			b, err = read(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open root key %s: %w", path, err)
	}
	return New(b, random)
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("mode %04o lets others use it: chmod 600 it, and make new access keys if anyone did", info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	digits, found := strings.CutPrefix(strings.TrimSpace(string(text)), fileHeader)
	key, err := hex.DecodeString(digits)
	if !found || err != nil || len(key) != keyBytes {
		return nil, errors.New("no root key in it: restore the file from a copy, or remove it to begin with new secrets")
	}
	return key, nil
}

// create writes a new key beside path and links it into place, so that of two that start at once one key wins and no
// crash leaves half a file.
func create(path string, random io.Reader) error {
	key := make([]byte, keyBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(fileHeader + hex.EncodeToString(key) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Seal encrypts a secret for one purpose, a text that names the row it is for.
func (k *Key) Seal(secret []byte, purpose string) []byte {
	out := make([]byte, 1+k.aead.NonceSize(), 1+k.aead.NonceSize()+len(secret)+k.aead.Overhead())
	out[0] = sealVersion
	_, err := io.ReadFull(k.random, out[1:])
	assert.That(err == nil, "random source for a nonce: %v", err)
	return k.aead.Seal(out, out[1:], secret, []byte(purpose))
}

// Unseal decrypts what Seal returned for the same purpose, or returns ErrSealed.
func (k *Key) Unseal(sealed []byte, purpose string) ([]byte, error) {
	head := 1 + k.aead.NonceSize()
	if len(sealed) < head || sealed[0] != sealVersion {
		return nil, ErrSealed
	}
	secret, err := k.aead.Open(nil, sealed[1:head], sealed[head:], []byte(purpose))
	if err != nil {
		return nil, ErrSealed
	}
	return secret, nil
}
