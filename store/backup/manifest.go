package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbrel/nimbrel/store"
)

// Format numbers the form of backups.
//
//	1: the first: manifest.json and store/.
const Format = 1

const (
	manifestName = "manifest.json"
	storeName    = "store"
	lockName     = "LOCK" // of an opener, beside a store's files and none of them
	// manifestMax bounds a manifest's bytes: some 500,000 files.
	manifestMax = 64 << 20
)

var (
	// ErrNoBackup says that a directory holds no manifest.
	ErrNoBackup = errors.New("no backup in this directory: it has no " + manifestName)
	// ErrDamaged is wrapped by what a manifest and its files do not agree on.
	ErrDamaged = errors.New("the backup is damaged")
)

// Manifest says what a backup is.
type Manifest struct {
	Format      int           `json:"format"`
	History     string        `json:"history"` // hexadecimal
	Version     store.Version `json:"version"`
	StoreFormat uint64        `json:"storeFormat"`
	MadeAtMs    int64         `json:"madeAtMs"` // Unix time
	Files       []File        `json:"files"`    // in order of name
	// Digest is the SHA-256 of this manifest's JSON with an empty digest, in hexadecimal.
	Digest string `json:"digest"`
}

// File is one of a store's files.
type File struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// Bytes is the length of all files.
func (m *Manifest) Bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

func (m Manifest) encode() ([]byte, error) {
	m.Digest = ""
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	sum := sha256.Sum256(plain)
	m.Digest = hex.EncodeToString(sum[:])
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// parseManifest accepts exactly what encode wrote.
func parseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", manifestName, ErrDamaged, err)
	}
	if m.Format > Format {
		return nil, fmt.Errorf("%s: format %d, this program knows up to %d: use the program that made it, or a newer one", manifestName, m.Format, Format)
	}
	if again, err := m.encode(); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%s: %w: it is not as it was written", manifestName, ErrDamaged)
	}
	if h, err := hex.DecodeString(m.History); err != nil || len(h) != len(store.HistoryID{}) {
		return nil, fmt.Errorf("%s: %w: history %.40q", manifestName, ErrDamaged, m.History)
	}
	for i, f := range m.Files {
		if !plainName(f.Name) || f.Bytes < 0 || (i > 0 && m.Files[i-1].Name >= f.Name) {
			return nil, fmt.Errorf("%s: %w: file %.80q", manifestName, ErrDamaged, f.Name)
		}
	}
	return &m, nil
}

// plainName tells whether a name stands for a file of a store, and for none anywhere else.
func plainName(name string) bool {
	return name != "" && name != lockName && name[0] != '.' && len(name) <= 255 && !strings.ContainsAny(name, "/\\\x00")
}

// ReadManifest reads a backup's manifest and nothing else.
func ReadManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, manifestName)
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", dir, ErrNoBackup)
	case err != nil:
		return nil, fmt.Errorf("read backup: %w", err)
	case info.Size() > manifestMax:
		return nil, fmt.Errorf("%s: %w: %d bytes", path, ErrDamaged, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return m, nil
}

// IsBackup tells whether a directory holds a backup, whole or not, and not a store.
func IsBackup(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, manifestName))
	_, inside := os.Stat(filepath.Join(dir, storeName))
	return err == nil || inside == nil
}
