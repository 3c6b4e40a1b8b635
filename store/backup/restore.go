package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// NotWhole is what Restore says of a backup that is damaged.
type NotWhole struct{ Report *Report }

func (e *NotWhole) Error() string {
	p := e.Report.Problems[0]
	return fmt.Sprintf("%s is damaged, %d problems, first: %s: %s: %s; nothing was restored", e.Report.Dir, e.Report.Count, p.Statement, p.Subject, p.Detail)
}

// Restored is a store that was made of a backup.
type Restored struct {
	Dir     string        `json:"dir"`
	History string        `json:"history"` // its own, new
	From    string        `json:"from"`    // the backup's
	Version store.Version `json:"version"` // the newest that both have
}

// Restore verifies a backup and makes a store of it in dir, which must not exist or be empty. The store begins a history
// of its own: versions up to the backup's are those of both. The backup is not changed. Options as of Write.
func Restore(ctx context.Context, from, dir string, now time.Time, agree func(Room) error, p Progress) (*Restored, error) {
	report, err := Verify(ctx, from, p)
	switch {
	case err != nil:
		return nil, fmt.Errorf("restore: %w", err)
	case !report.Backup:
		return nil, fmt.Errorf("restore: %s: %w", from, ErrNoBackup)
	case !report.OK():
		return nil, &NotWhole{report}
	}
	m, err := ReadManifest(from)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	w, err := begin(dir, true)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	defer w.abandon()
	if err := w.agreed(m.Bytes(), agree); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	copied, err := w.copy(ctx, w.partial, "restore", m.Files, func(name string) (io.ReadCloser, error) {
		return os.Open(filepath.Join(from, storeName, name))
	}, p)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	for i, f := range copied {
		if f.SHA256 != m.Files[i].SHA256 {
			return nil, fmt.Errorf("restore: file %s: %w: it changed while it was read", f.Name, ErrDamaged)
		}
	}
	history, before, err := mvcc.BeginHistory(w.partial, mvcc.Options{Random: rand.Reader, NowMs: now.UnixMilli(), Logger: quietLog{}})
	if err != nil {
		return nil, fmt.Errorf("restore: begin history: %w", err)
	}
	if before.History.String() != m.History || before.Version != m.Version {
		return nil, errors.New("restore: the store is not that of the manifest")
	}
	if err := w.finish(); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return &Restored{Dir: w.dir, History: history.String(), From: m.History, Version: m.Version}, nil
}
