package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/internal/assert"
)

// magic begins every file, with the format's number. History: 1, the first form: magic, SHA-256 of the rest, CBOR.
var magic = []byte("NBDOC\x00\x00\x01")

// disk keeps one file per section and one for the history and epoch. A file is replaced whole, and synced before it is
// spoken of.
type disk struct {
	dir string
	log *slog.Logger
}

// sectionFile is a section as stored.
type sectionFile struct {
	ID      dispatch.SectionID       `cbor:"1,keyasint"`
	History string                   `cbor:"2,keyasint"`
	Seq     dispatch.Seq             `cbor:"3,keyasint"`
	Items   []heldItem               `cbor:"4,keyasint,omitempty"`
	Orphans map[string]dispatch.Item `cbor:"5,keyasint,omitempty"`
}

type heldItem struct {
	Shown   *dispatch.Item `cbor:"1,keyasint,omitempty"`
	Pending *dispatch.Item `cbor:"2,keyasint,omitempty"`
}

var fileDecoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{MaxArrayElements: dispatch.MaxSectionItems, MaxMapPairs: dispatch.MaxSectionItems}.DecMode()
	assert.That(err == nil, "CBOR mode: %v", err)
	return mode
}()

// openDisk reads everything. What cannot be read is set aside and counts as never received.
func openDisk(dir string, log *slog.Logger) (*disk, session.Meta, []*session.Sink, error) {
	var meta session.Meta
	d := &disk{dir: dir, log: log}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, meta, nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, meta, nil, err
	}
	var sinks []*session.Sink
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), ".new-"):
			_ = os.Remove(path) // a write that a crash cut off
		case e.Name() == "meta.doc":
			if err := read(path, &meta); err != nil {
				d.setAside(path, err)
				meta = session.Meta{}
			}
		case strings.HasSuffix(e.Name(), ".section"):
			k, err := readSection(path)
			if err != nil {
				d.setAside(path, err)
				continue
			}
			sinks = append(sinks, k)
		}
	}
	return d, meta, sinks, nil
}

// setAside keeps a broken file for a person to look at; the next one of the same name replaces it.
func (d *disk) setAside(path string, cause error) {
	d.log.Warn("desired document is damaged: it will be fetched again", "path", path, "err", cause)
	if err := os.Rename(path, path+".damaged"); err != nil {
		_ = os.Remove(path)
	}
}

func readSection(path string) (*session.Sink, error) {
	var f sectionFile
	if err := read(path, &f); err != nil {
		return nil, err
	}
	return f.sink()
}

func (f *sectionFile) sink() (*session.Sink, error) {
	if err := f.ID.Validate(); err != nil {
		return nil, err
	}
	k := session.NewSink(f.ID, f.History)
	k.Seq = f.Seq
	for _, h := range f.Items {
		held := session.Held{Shown: h.Shown, Pending: h.Pending}
		latest := held.Latest()
		if latest == nil || latest.Rev > f.Seq || latest.Deleted {
			return nil, fmt.Errorf("section %v: item that cannot be", f.ID)
		}
		if err := session.ValidateItem(latest); err != nil {
			return nil, fmt.Errorf("section %v: %w", f.ID, err)
		}
		k.Load(latest.Key, held)
	}
	for key, it := range f.Orphans {
		k.Orphans[key] = it
	}
	return k, nil
}

func read(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return decodeFile(b, v)
}

func decodeFile(b []byte, v any) error {
	rest, found := bytes.CutPrefix(b, magic)
	if !found || len(rest) < sha256.Size {
		return errors.New("not a document of this format")
	}
	body := rest[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return errors.New("checksum of the file differs")
	}
	return fileDecoding.Unmarshal(body, v)
}

func (d *disk) path(id dispatch.SectionID) string {
	sum := sha256.Sum256([]byte(id.Doc + "\x00" + id.Section))
	return filepath.Join(d.dir, hex.EncodeToString(sum[:16])+".section")
}

func (d *disk) write(k *session.Sink) error {
	f := sectionFile{ID: k.ID, History: k.History, Seq: k.Seq, Items: make([]heldItem, 0, len(k.Items)), Orphans: k.Orphans}
	for _, h := range k.Items {
		f.Items = append(f.Items, heldItem{h.Shown, h.Pending})
	}
	return d.replace(d.path(k.ID), f)
}

func (d *disk) writeMeta(m session.Meta) error { return d.replace(filepath.Join(d.dir, "meta.doc"), m) }

func (d *disk) replace(path string, v any) error {
	body, err := cbor.Marshal(v)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	f, err := os.CreateTemp(d.dir, ".new-*")
	if err != nil {
		return err
	}
	_, werr := f.Write(append(append(bytes.Clone(magic), sum[:]...), body...))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return d.sync()
}

// sync makes a rename durable.
func (d *disk) sync() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// remove forgets a section. A file that stays behind is dropped again after the next start.
func (d *disk) remove(id dispatch.SectionID) {
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("remove desired section", "section", id.String(), "err", err)
	}
}
