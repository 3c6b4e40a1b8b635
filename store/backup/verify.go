package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// MaxProblems bounds the problems of a report; Count goes on.
const MaxProblems = 100

// Problem is one thing that is wrong.
type Problem = mvcc.Problem

// Report is what a verification found.
type Report struct {
	Dir     string        `json:"dir"`
	Backup  bool          `json:"backup"` // else a store
	History string        `json:"history,omitempty"`
	Version store.Version `json:"version"`
	// Floor is the oldest version that can be read.
	Floor    store.Version `json:"floor"`
	MadeAtMs int64         `json:"madeAtMs,omitempty"` // of a backup

	Rows        int   `json:"rows"`
	RowVersions int   `json:"rowVersions"`
	LogEntries  int   `json:"logEntries"`
	Records     int   `json:"records"`
	Pools       int   `json:"pools"`
	Files       int   `json:"files"`
	Bytes       int64 `json:"bytes"`

	Problems []Problem `json:"problems"` // at most MaxProblems
	Count    int       `json:"count"`    // of all problems
}

// Add counts a problem, and keeps it within the bound.
func (r *Report) Add(p Problem) {
	if r.Count++; len(r.Problems) < MaxProblems {
		r.Problems = append(r.Problems, p)
	}
}

func (r *Report) addf(statement, subject, format string, args ...any) {
	r.Add(Problem{Statement: statement, Subject: subject, Detail: fmt.Sprintf(format, args...)})
}

// OK tells whether nothing is wrong.
func (r *Report) OK() bool { return r.Count == 0 }

// Verify reads a whole backup, or a whole store that no process has open, and reports what is wrong. An error says that
// it could not be looked at; the store is not changed.
func Verify(ctx context.Context, dir string, p Progress) (*Report, error) {
	r := &Report{Dir: dir, Problems: []Problem{}}
	o := mvcc.Options{ReadOnly: true}
	files := dir
	if IsBackup(dir) {
		m, err := ReadManifest(dir)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		r.Backup = true
		files, o.FS = filepath.Join(dir, storeName), unlocked{vfs.Default}
		if err != nil {
			r.addf("manifest", manifestName, "%v", err)
		} else if err := r.digests(ctx, files, m, p); err != nil {
			return nil, err
		}
		if r.Count > 0 {
			return r, nil // what is in files that are not those of the manifest says nothing
		}
		if err := r.state(files, o, p); err != nil {
			return nil, err
		}
		r.compare(m)
		return r, nil
	}
	list, err := listFiles(dir)
	if err != nil {
		return nil, err
	}
	r.Files = len(list)
	for _, f := range list {
		r.Bytes += f.Bytes
	}
	return r, r.state(files, o, p)
}

// digests compares a backup's files with its manifest.
func (r *Report) digests(ctx context.Context, dir string, m *Manifest, p Progress) error {
	r.Files, r.Bytes, r.MadeAtMs, r.Version, r.History = len(m.Files), m.Bytes(), m.MadeAtMs, m.Version, m.History
	known := map[string]bool{lockName: true}
	done := int64(0)
	for _, f := range m.Files {
		known[f.Name] = true
		n, sum, err := digestOf(ctx, filepath.Join(dir, f.Name), func(n int64) {
			done += n
			p.say("digests", done, r.Bytes)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.addf("file", f.Name, "%v", err)
		case n != f.Bytes:
			r.addf("file", f.Name, "%d bytes, the manifest says %d", n, f.Bytes)
		case sum != f.SHA256:
			r.addf("digest", f.Name, "SHA-256 is %s, the manifest says %s", sum, f.SHA256)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		r.addf("file", storeName, "%v", err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			r.addf("file", e.Name(), "the manifest does not name it")
		}
	}
	return nil
}

// state opens and reads the store.
func (r *Report) state(dir string, o mvcc.Options, p Progress) error {
	p.say("rows", 0, 1)
	defer p.say("rows", 1, 1)
	s, err := openQuietly(dir, o)
	switch {
	case errors.Is(err, mvcc.ErrLocked), errors.Is(err, mvcc.ErrNoStore) && !r.Backup, errors.Is(err, mvcc.ErrNewerFormat), errors.Is(err, os.ErrPermission):
		return err
	case err != nil:
		r.addf("opens", dir, "%v", err)
		return nil
	}
	r.History, r.Version, r.Floor = s.History().String(), s.Last().Version, s.Floor()
	err = survive(func() error {
		counts := s.Verify(r.Add)
		r.Rows, r.RowVersions, r.LogEntries, r.Records, r.Pools = counts.Rows, counts.RowVersions, counts.LogEntries, counts.Records, counts.Pools
		return nil
	})
	if err = errors.Join(err, survive(s.Close)); err != nil {
		r.addf("readable", dir, "%v", err)
	}
	return nil
}

// compare holds what a backup's store is against what its manifest says.
func (r *Report) compare(m *Manifest) {
	if r.History != m.History || r.Version != m.Version {
		r.addf("version", manifestName, "it says version %d of history %s, the store is at %d of %s", m.Version, m.History, r.Version, r.History)
	}
}

func digestOf(ctx context.Context, path string, moved func(int64)) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	d := NewDigest()
	n, err := io.Copy(d, &counted{ctx: ctx, from: f, moved: moved})
	return n, d.Text(), err
}

// unlocked is a file system whose directories need no lock: a backup's never change, and may be on a disk that cannot be
// written.
type unlocked struct{ vfs.FS }

type noLock struct{}

func (noLock) Close() error { return nil }

func (unlocked) Lock(string) (io.Closer, error) { return noLock{}, nil }

// Open opens a backup, or a store that no process has open, to be read.
func Open(dir string) (*embed.Engine, error) {
	o := embed.Options{ReadOnly: true}
	if IsBackup(dir) {
		dir, o.FS = filepath.Join(dir, storeName), unlocked{vfs.Default}
	}
	return embed.Open(dir, o)
}

// openQuietly opens a store's files; what the engine would end the process for is an error.
func openQuietly(dir string, o mvcc.Options) (s *mvcc.State, err error) {
	o.Logger = quietLog{}
	err = survive(func() (err error) {
		s, err = mvcc.Open(dir, o)
		return err
	})
	return s, err
}

// survive makes an error of what the engine would end the process for.
func survive(fn func() error) (err error) {
	defer func() {
		switch f := recover().(type) {
		case nil:
		case fatal:
			err = errors.New(string(f))
		default:
			panic(f)
		}
	}()
	return fn()
}

// quietLog keeps the engine's own words: what is wrong comes back as an error, and is told once.
type quietLog struct{}

func (quietLog) Infof(string, ...any)  {}
func (quietLog) Errorf(string, ...any) {}

func (quietLog) Fatalf(format string, args ...any) {
	panic(fatal(strings.TrimSpace(fmt.Sprintf(format, args...))))
}

// fatal is what the engine cannot go on after.
type fatal string
