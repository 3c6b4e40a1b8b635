// Package bundle makes a support bundle: what somebody else needs to see to judge a cloud, in one archive, without its
// secrets.
//
// Invariants: every text goes through one scrubber, which knows the secrets that are on the machine and the forms that
// secrets have; what a guest wrote (consoles, disks) and what tenants gave it (user data) is never read; each part is
// bounded; a part that cannot be made is an entry of the manifest and no failure.
//
// Deliberately absent: sending it anywhere.
//
// Start at Write.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

const (
	// maxLogBytes is what is kept of the end of each log.
	maxLogBytes = 4 << 20
	// maxFiles bounds the files of one kind, and maxRows the rows that are counted.
	maxFiles = 200
	maxRows  = 200_000
	// maxListed bounds each list of the API, and the entries of a tree of files.
	maxListed = 20_000
)

// Options say where to look. An empty field is a part that is left out.
type Options struct {
	API            operatorgen.API
	StateDir       string // of the server
	AgentStateDirs []string
	SecretFiles    []string // more files whose words are secrets, such as units' environment files
	MetricsURLs    []string
	Journal        []string // units
	// Parts are more entries: the doctor's findings, settings.
	Parts   map[string]func(context.Context) ([]byte, error)
	Version string
	Now     time.Time
}

// Manifest is the bundle's first entry to read.
type Manifest struct {
	Version string            `json:"version"`
	MadeAt  time.Time         `json:"madeAt"`
	Entries []string          `json:"entries"`
	Left    map[string]string `json:"leftOut"` // entry and why
}

// writer writes scrubbed entries.
type writer struct {
	tar      *tar.Writer
	scrub    *scrubber
	manifest Manifest
}

// Write writes the bundle, a gzipped tar. An error is one of w.
func Write(ctx context.Context, w io.Writer, o Options) (Manifest, error) {
	zip := gzip.NewWriter(w)
	b := &writer{tar: tar.NewWriter(zip), scrub: newScrubber(o), manifest: Manifest{Version: o.Version, MadeAt: o.Now.UTC(), Left: map[string]string{}}}
	for _, part := range o.parts() {
		content, err := part.read(ctx)
		if err != nil {
			b.manifest.Left[part.name] = string(b.scrub.clean([]byte(err.Error())))
			continue
		}
		if err := b.add(part.name, content); err != nil {
			return b.manifest, err
		}
	}
	text, err := json.MarshalIndent(b.manifest, "", "  ")
	if err == nil {
		err = b.add("manifest.json", text)
	}
	for _, c := range []io.Closer{b.tar, zip} {
		if closed := c.Close(); err == nil {
			err = closed
		}
	}
	if err != nil {
		return b.manifest, fmt.Errorf("write bundle: %w", err)
	}
	return b.manifest, nil
}

func (b *writer) add(name string, content []byte) error {
	content = b.scrub.clean(content)
	h := &tar.Header{Name: "nimbrel-bundle/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: b.manifest.MadeAt, Typeflag: tar.TypeReg}
	if err := b.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write bundle: %s: %w", name, err)
	}
	if _, err := io.Copy(b.tar, bytes.NewReader(content)); err != nil {
		return fmt.Errorf("write bundle: %s: %w", name, err)
	}
	b.manifest.Entries = append(b.manifest.Entries, name)
	return nil
}
