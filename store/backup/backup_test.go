package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
)

var made = time.UnixMilli(1_700_000_000_000)

func open(t *testing.T, dir string, o embed.Options) *embed.Engine {
	t.Helper()
	e, err := embed.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// fill writes rows, a counter, a pool in use and deletions.
func fill(t *testing.T, e *embed.Engine, rounds int) {
	t.Helper()
	db := store.New(e, store.Options{Tenant: "t"})
	ctx := context.Background()
	pool := store.Prefix("pool")
	_, err := db.Transact(ctx, func(tx *store.Tx) error {
		tx.CreatePool(pool, 5000, 0, 4999)
		tx.Put(store.Key("count", "left"), store.Int(1_000_000))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		_, err := db.Transact(ctx, func(tx *store.Tx) error {
			n := tx.Take(pool)
			tx.Put(store.Key("row", i), store.SlotValue(n))
			tx.Put(store.Key("text", i%7), store.Bytes(bytes.Repeat([]byte{byte(i)}, 100)))
			tx.Add(store.Key("count", "left"), -1, 0, 1_000_000)
			if i%3 == 0 && i > 0 {
				tx.Delete(store.Key("row", i-1))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func backUp(t *testing.T, e *embed.Engine, to string) *Manifest {
	t.Helper()
	c, err := e.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	m, err := Write(context.Background(), to, OfCheckpoint(c), made, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func verify(t *testing.T, dir string) *Report {
	t.Helper()
	r, err := Verify(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func restore(t *testing.T, from, to string) *Restored {
	t.Helper()
	r, err := Restore(context.Background(), from, to, made, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rows is everything at the newest version.
func rows(t *testing.T, e *embed.Engine) []store.KV {
	t.Helper()
	s, err := e.Snapshot(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	list, err := s.Range(context.Background(), store.RangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func sameRow(a, b store.KV) bool {
	return bytes.Equal(a.Key, b.Key) && a.Version == b.Version && a.Value.Equal(b.Value)
}

// TestBackupUnderLoad takes backups while clients commit: each is of one version, holds every commit up to it and none
// after it, and restores to what verify accepts.
func TestBackupUnderLoad(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "store"), embed.Options{CollectEvery: 20 * time.Millisecond, History: time.Second})
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for id := range 8 {
		clients.Go(func() {
			db := store.New(e, store.Options{})
			for i := 0; ctx.Err() == nil; i++ {
				// The value of n is the version: each commit adds one to it.
				_, err := db.Transact(ctx, func(tx *store.Tx) error {
					n := tx.Add(store.Key("n"), 1, 0, 1<<40)
					tx.Put(store.Key("row", id, i), store.SlotValue(n))
					return nil
				})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	var before store.Version
	for i := range 5 {
		to := filepath.Join(dir, "backup", string(rune('a'+i)))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		waitPast(t, e, before)
		m := backUp(t, e, to)
		if m.Version <= before {
			t.Errorf("backup of version %d after one of %d", m.Version, before)
		}
		before = m.Version
		if r := verify(t, to); !r.OK() || r.Version != m.Version || r.History != e.History().String() {
			t.Fatalf("verify: %+v", r)
		}
		restored := filepath.Join(dir, "restored", string(rune('a'+i)))
		if err := os.MkdirAll(filepath.Dir(restored), 0o755); err != nil {
			t.Fatal(err)
		}
		restore(t, to, restored)
		if r := verify(t, restored); !r.OK() || r.Version != m.Version || r.RowVersions == 0 {
			t.Fatalf("verify restored: %+v", r)
		}
		whole(t, restored, m.Version)
	}
	stop()
	clients.Wait()
	if names, err := filepath.Glob(filepath.Join(dir, "store.*")); err != nil || len(names) != 0 {
		t.Errorf("checkpoints left: %v, %v", names, err)
	}
}

func waitPast(t *testing.T, e *embed.Engine, v store.Version) {
	t.Helper()
	s, err := e.Snapshot(context.Background(), v+100)
	if err != nil {
		t.Fatal(err)
	}
	s.Release()
}

// whole checks that a store is at a version with a row for each.
func whole(t *testing.T, dir string, v store.Version) {
	t.Helper()
	e := open(t, dir, embed.Options{})
	defer e.Close()
	n := map[int64]bool{}
	s, err := e.Snapshot(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	prefix := append(store.HandlePrefix(0, ""), store.Prefix("row")...)
	o := store.RangeOptions{Begin: prefix, End: store.PrefixEnd(prefix), Limit: store.MaxRangeRows}
	for {
		list, err := s.Range(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range list {
			n[kv.Value.Int] = true
			o.Begin = append(bytes.Clone(kv.Key), 0)
		}
		if len(list) < o.Limit {
			break
		}
	}
	if s.Version() != v || len(n) != int(v) {
		t.Errorf("restored at version %d with %d rows, want %d", s.Version(), len(n), v)
	}
}

// TestRestoreIsAnotherHistory: rows are those of the backup, the history is not, what was committed before is remembered,
// and a follower of the old one is told.
func TestRestoreIsAnotherHistory(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "store"), embed.Options{})
	fill(t, e, 50)
	commit := &store.Commit{
		ID: store.CommitID{Session: store.SessionID{7}, Seq: 1, Attempt: 1}, NotAfterMs: time.Now().Add(5 * time.Minute).UnixMilli(),
		Ops: []store.Op{{Kind: store.OpAdd, Key: store.Key("once"), Delta: 1, Max: 10}},
	}
	if a, err := e.Commit(context.Background(), commit); err != nil || a.Outcome != store.OutcomeCommitted {
		t.Fatalf("%+v, %v", a, err)
	}
	want := rows(t, e)
	m := backUp(t, e, filepath.Join(dir, "backup"))
	fill2 := func(e *embed.Engine) {
		if _, err := store.New(e, store.Options{}).Transact(context.Background(), func(tx *store.Tx) error { tx.Put(store.Key("lost"), store.Int(1)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	fill2(e)
	lost := m.Version + 1
	r := restore(t, filepath.Join(dir, "backup"), filepath.Join(dir, "restored"))
	after := open(t, filepath.Join(dir, "restored"), embed.Options{})
	if after.History() == e.History() || after.History().String() != r.History || r.From != e.History().String() || r.Version != m.Version {
		t.Errorf("restored %+v, history %v of %v", r, after.History(), e.History())
	}
	if got := rows(t, after); !slices.EqualFunc(got, want, sameRow) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	if a, err := after.Commit(context.Background(), commit); err != nil || a.Outcome != store.OutcomeCommitted || a.Version > m.Version {
		t.Errorf("a commit from before the backup, again: %+v, %v", a, err)
	}
	db := store.New(after, store.Options{})
	if _, err := db.Resume(context.Background(), store.Position{History: e.History(), Version: 1}); !errors.Is(err, store.ErrOtherHistory) {
		t.Errorf("a feed of the old history: %v", err)
	}
	if _, err := after.Watch(context.Background(), lost); !errors.Is(err, store.ErrOtherHistory) {
		t.Errorf("a feed from a lost version: %v", err)
	}
	stale := &store.Commit{
		ID: store.CommitID{Session: store.SessionID{8}, Seq: 1, Attempt: 1}, NotAfterMs: commit.NotAfterMs,
		ReadHistory: e.History(), ReadVersion: 1, Reads: []store.ReadRange{{Begin: []byte{2}}}, Ops: commit.Ops,
	}
	if a, err := after.Commit(context.Background(), stale); err != nil || a.Outcome != store.OutcomeRefused || a.Reason != store.ReasonTooOld {
		t.Errorf("a commit that read the old history: %+v, %v", a, err)
	}
	fill2(after)
	feed, err := db.Resume(context.Background(), store.Position{History: after.History(), Version: m.Version})
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	if b, err := feed.Next(context.Background()); err != nil || b.History != after.History() || b.Version != lost {
		t.Errorf("the new history's feed: %+v, %v", b, err)
	}
}

// TestOfDirectory backs up a store that nobody has open, as a kill left it, and refuses one that somebody has.
func TestOfDirectory(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "store")
	e := open(t, from, embed.Options{})
	fill(t, e, 20)
	want := rows(t, e)
	if _, err := OfDirectory(from); !errors.Is(err, embed.ErrLocked) {
		t.Errorf("a store in use: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := OfDirectory(from)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embed.Open(from, embed.Options{}); !errors.Is(err, embed.ErrLocked) {
		t.Errorf("opened while it is backed up: %v", err)
	}
	if _, err := Write(context.Background(), filepath.Join(dir, "backup"), s, made, nil, nil); err != nil {
		t.Fatal(err)
	}
	restore(t, filepath.Join(dir, "backup"), filepath.Join(dir, "restored"))
	if got := rows(t, open(t, filepath.Join(dir, "restored"), embed.Options{})); !slices.EqualFunc(got, want, sameRow) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	for _, path := range []string{from, filepath.Join(dir, "backup")} {
		if r := verify(t, path); !r.OK() || r.Pools != 1 {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

// failing ends in the middle of a file.
type failing struct {
	Source
	after int
}

func (f *failing) Open(name string) (io.ReadCloser, error) {
	if f.after--; f.after < 0 {
		return nil, errors.New("connection lost")
	}
	return f.Source.Open(name)
}

// TestInterrupted leaves nothing that is taken for a backup, wherever it ends.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "store"), embed.Options{})
	fill(t, e, 5)
	for after := range 4 {
		c, err := e.Checkpoint(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Checkpoint(context.Background()); !errors.Is(err, embed.ErrBusy) {
			t.Errorf("two at once: %v", err)
		}
		_, err = Write(context.Background(), filepath.Join(dir, "backup"), &failing{OfCheckpoint(c), after}, made, nil, nil)
		if err == nil || !strings.Contains(err.Error(), "connection lost") {
			t.Errorf("after %d files: %v", after, err)
		}
	}
	c, err := e.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if _, err := Write(context.Background(), filepath.Join(dir, "backup"), OfCheckpoint(c), made, func(r Room) error {
		if r.Bytes == 0 || r.Free == 0 {
			t.Errorf("room %+v", r)
		}
		return no
	}, nil); !errors.Is(err, no) {
		t.Errorf("refused: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	// What a kill leaves has no manifest.
	partial := filepath.Join(dir, ".backup.partial-1")
	if err := os.MkdirAll(filepath.Join(partial, storeName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), partial, nil); !errors.Is(err, ErrNoBackup) {
		t.Errorf("a partial backup: %v", err)
	}
	if _, err := Restore(context.Background(), partial, filepath.Join(dir, "restored"), made, nil, nil); !errors.Is(err, ErrNoBackup) {
		t.Errorf("restore of a partial backup: %v", err)
	}
}

// TestNothingIsWrittenOver refuses targets that are there.
func TestNothingIsWrittenOver(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "store"), embed.Options{})
	fill(t, e, 5)
	backUp(t, e, filepath.Join(dir, "backup"))
	for _, to := range []string{filepath.Join(dir, "backup"), filepath.Join(dir, "store"), filepath.Join(dir, "none", "deeper")} {
		c, err := e.Checkpoint(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Write(context.Background(), to, OfCheckpoint(c), made, nil, nil); err == nil {
			t.Errorf("backup written to %s", to)
		}
		if _, err := Restore(context.Background(), filepath.Join(dir, "backup"), to, made, nil, nil); err == nil {
			t.Errorf("restored to %s", to)
		}
	}
	if r := verify(t, filepath.Join(dir, "backup")); !r.OK() {
		t.Errorf("%+v", r)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := e.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), empty, OfCheckpoint(c), made, nil, nil); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("backup to a directory that is there: %v", err)
	}
	restore(t, filepath.Join(dir, "backup"), empty)
}

func FuzzManifest(f *testing.F) {
	m := Manifest{Format: 1, History: strings.Repeat("ab", 16), Version: 5, StoreFormat: 1, Files: []File{{Name: "a", Bytes: 3, SHA256: "00"}}}
	b, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"files":[{"name":"../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if filepath.Base(file.Name) != file.Name || file.Bytes < 0 {
				t.Errorf("file %q of %d bytes", file.Name, file.Bytes)
			}
		}
		if again, err := json.Marshal(m); err != nil || len(again) == 0 {
			t.Error(err)
		}
	})
}
