package embed

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

var updateGolden = flag.Bool("update", false, "write testdata anew, for a new format only")

// goldenRow is a row of testdata/formatN.json, the content of the directory beside it.
type goldenRow struct {
	Key, Bytes []byte
	Int        int64
	Version    store.Version
}

// goldenMs is when the directories were written and are opened: startClock's time, Unix ms. Answers are still remembered.
const goldenMs = 1_700_000_000_000

func goldenOptions(fs vfs.FS) Options {
	_, at := startClock()
	return Options{FS: fs, Env: at}
}

// goldenCommits write one row of every kind, a counter, a pool, a deleted row and an answered commit; they are sent in
// order, and each again must be answered from memory.
func goldenCommits() []*store.Commit {
	pool := store.Prefix("pool")
	list := [][]store.Op{
		{{Kind: store.OpPut, Key: store.Key("bytes"), Value: store.Bytes([]byte("value"))}, {Kind: store.OpPut, Key: store.Key("gone"), Value: store.Int(1)}},
		{{Kind: store.OpAdd, Key: store.Key("count"), Delta: 7, Min: 0, Max: 100}},
		{{Kind: store.OpCreatePool, Key: store.RawKey(pool), To: 99}, {Kind: store.OpTake, Key: store.RawKey(pool), To: 99}},
		{{Kind: store.OpDelete, Key: store.Key("gone")}, {Kind: store.OpTake, Key: store.RawKey(pool), To: 99}},
	}
	var all []*store.Commit
	for n, ops := range list {
		for i := range ops {
			ops[i].Index = uint32(i)
		}
		all = append(all, &store.Commit{ID: store.CommitID{Session: store.SessionID{'g'}, Seq: uint64(n + 1), Attempt: 1}, NotAfterMs: goldenMs + 60_000, Ops: ops})
	}
	return all
}

// TestGoldenDirectories opens a directory of each format that this program knows, as its own version wrote it and left it
// when it was killed: rows, versions, history, pools and answered commits are all there, and it can be written on.
func TestGoldenDirectories(t *testing.T) {
	current := filepath.Join("testdata", "format"+strconv.Itoa(int(mvcc.Format)))
	if *updateGolden {
		writeGolden(t, current)
	}
	if _, err := os.Stat(current); err != nil {
		t.Errorf("format %d has no golden directory: write it with -update: %v", mvcc.Format, err)
	}
	known, err := filepath.Glob("testdata/format*.json")
	if err != nil || len(known) != int(mvcc.Format) {
		t.Errorf("%d golden directories (%v), want one for each of %d formats", len(known), err, mvcc.Format)
	}
	for _, list := range known {
		t.Run(filepath.Base(list), func(t *testing.T) { openGolden(t, list) })
	}
}

func openGolden(t *testing.T, list string) {
	raw, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var want []goldenRow
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(list[:len(list)-len(".json")])); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time as this program has left it
		e, err := Open(dir, goldenOptions(nil))
		if err != nil {
			t.Fatal(err)
		}
		if got := goldenRows(t, e, 4); !slices.EqualFunc(got, want, goldenRow.equal) {
			t.Errorf("rows are %+v, want %+v", got, want)
		}
		for n, c := range goldenCommits() {
			if a, err := e.Commit(context.Background(), c); err != nil || a.Outcome != store.OutcomeCommitted || a.Version != store.Version(n+1) {
				t.Errorf("commit %d again: %+v, %v", n+1, a, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	e := open(t, dir, goldenOptions(nil))
	next := &store.Commit{ID: store.CommitID{Session: store.SessionID{'n'}, Seq: 1, Attempt: 1}, NotAfterMs: goldenMs + 60_000,
		Ops: []store.Op{{Kind: store.OpAdd, Key: store.Key("count"), Delta: 1, Min: 8, Max: 8}}}
	if a, err := e.Commit(context.Background(), next); err != nil || a.Outcome != store.OutcomeCommitted || a.Version != 5 {
		t.Errorf("the next commit: %+v, %v", a, err)
	}
}

func (g goldenRow) equal(o goldenRow) bool {
	return string(g.Key) == string(o.Key) && string(g.Bytes) == string(o.Bytes) && g.Int == o.Int && g.Version == o.Version
}

func goldenRows(t *testing.T, e *Engine, at store.Version) (rows []goldenRow) {
	t.Helper()
	s, err := e.Snapshot(context.Background(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	list, err := s.Range(context.Background(), store.RangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range list {
		value := kv.Value.Bytes
		if len(value) > 64 { // a pool's page
			sum := sha256.Sum256(value)
			value = sum[:]
		}
		rows = append(rows, goldenRow{kv.Key, value, kv.Value.Int, kv.Version})
	}
	return rows
}

// writeGolden copies the directory under a running engine, as a kill leaves it, without the preallocated rest of its logs.
func writeGolden(t *testing.T, dir string) {
	t.Helper()
	fs := vfs.NewCrashableMem()
	e := open(t, "db", goldenOptions(fs))
	for n, c := range goldenCommits() {
		if n == 2 { // what is found at an opening goes into a table: both kinds of file have rows
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = open(t, "db", goldenOptions(fs))
		}
		if a, err := e.Commit(context.Background(), c); err != nil || a.Outcome != store.OutcomeCommitted {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	raw, err := json.MarshalIndent(goldenRows(t, e, 4), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	disk := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := vfs.Clone(disk, vfs.Default, "db", dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+".json", append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
