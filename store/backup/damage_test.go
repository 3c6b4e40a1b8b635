package backup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// TestVerifyFindsDamageToFiles flips one bit of each file of a backup, cuts each, removes each, adds one, and changes each
// field of the manifest.
func TestVerifyFindsDamageToFiles(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "store"), embed.Options{})
	fill(t, e, 30)
	good := filepath.Join(dir, "backup")
	m := backUp(t, e, good)
	damaged := func(what string, damage func(path string) error) {
		t.Helper()
		to := filepath.Join(dir, "damaged")
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(to, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		if err := damage(to); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(context.Background(), to, nil)
		if err == nil && r.OK() {
			t.Errorf("%s: not found", what)
		}
		if _, err := Restore(context.Background(), to, filepath.Join(dir, "restored"), made, nil, nil); err == nil {
			t.Fatalf("%s: restored", what)
		}
	}
	for _, f := range m.Files {
		at := func(to string) string { return filepath.Join(to, storeName, f.Name) }
		if f.Bytes > 0 {
			for _, place := range []int64{0, f.Bytes / 2, f.Bytes - 1} {
				damaged("flip "+f.Name, func(to string) error { return flip(at(to), place) })
			}
			damaged("cut "+f.Name, func(to string) error { return os.Truncate(at(to), f.Bytes-1) })
		}
		damaged("remove "+f.Name, func(to string) error { return os.Remove(at(to)) })
	}
	damaged("another file", func(to string) error {
		return os.WriteFile(filepath.Join(to, storeName, "000099.sst"), []byte("x"), 0o600)
	})
	manifest, err := os.ReadFile(filepath.Join(good, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	for place := range manifest {
		b := bytes.Clone(manifest)
		b[place] ^= 1
		if _, err := parseManifest(b); err == nil {
			t.Errorf("manifest with bit %d flipped is believed", place)
		}
	}
	damaged("manifest", func(to string) error { return flip(filepath.Join(to, manifestName), int64(len(manifest)/2)) })
	damaged("no manifest", func(to string) error { return os.Remove(filepath.Join(to, manifestName)) })
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	return err
}

// TestVerifyFindsLostRows changes a store under its engine, each time in a way that its files' own checksums agree with.
func TestVerifyFindsLostRows(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "store")
	e := open(t, good, embed.Options{})
	fill(t, e, 30)
	last := rows(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	find := func(space byte, nth int) func(db *pebble.DB) ([]byte, []byte) {
		return func(db *pebble.DB) (key, value []byte) {
			it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{space, 0}, UpperBound: []byte{space + 1, 0}})
			if err != nil {
				t.Fatal(err)
			}
			defer it.Close()
			it.First()
			for range nth {
				it.Next()
			}
			return bytes.Clone(it.Key()), bytes.Clone(it.Value())
		}
	}
	remove := func(space byte, nth int) func(db *pebble.DB) error {
		return func(db *pebble.DB) error {
			key, _ := find(space, nth)(db)
			return db.Delete(key, nil)
		}
	}
	set := func(space byte, nth int, change func(b []byte) []byte) func(db *pebble.DB) error {
		return func(db *pebble.DB) error {
			key, value := find(space, nth)(db)
			return db.Set(key, change(value), nil)
		}
	}
	for name, c := range map[string]struct {
		damage func(db *pebble.DB) error
		want   string
	}{
		"a row gone":       {remove('r', 3), "feed equals history"},
		"a log entry gone": {remove('l', 9), "log whole"},
		"the newest entry": {remove('l', 30), "row in log"},
		"a value cut":      {set('r', 3, func(b []byte) []byte { return b[:1] }), "decodes"},
		"a longer value":   {set('r', len(last)+60, func(b []byte) []byte { return append(b, 0) }), "feed equals history"},
		"an entry cut":     {set('l', 9, func(b []byte) []byte { return b[:len(b)-1] }), "decodes"},
		"a record":         {set('i', 0, func([]byte) []byte { return []byte{0xFF} }), "decodes"},
		"a row too many": {func(db *pebble.DB) error {
			key, value := find('r', len(last)+60)(db)
			for nth := 0; !bytes.Contains(key, store.Prefix("row")); nth++ {
				key, value = find('r', nth)(db)
			}
			key[len(key)-2] ^= 1 // of one version, which is now two
			return db.Set(key, value, nil)
		}, "feed equals history"},
		"a strange key":  {func(db *pebble.DB) error { return db.Set([]byte{'z', 0}, nil, nil) }, "decodes"},
		"a strange meta": {func(db *pebble.DB) error { return db.Set([]byte("mfloor2\x00"), nil, nil) }, "decodes"},
		"a row beyond": {func(db *pebble.DB) error {
			key, value := find('r', 3)(db)
			key[len(key)-9] ^= 0x40
			return db.Set(key, value, nil)
		}, "row in log"},
		"a page":  {func(db *pebble.DB) error { return page(t, db, func(b []byte) { b[100] ^= 1 }) }, "pool count"},
		"nothing": {func(*pebble.DB) error { return nil }, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "damaged")
			if err := os.CopyFS(to, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			db, err := pebble.Open(to, &pebble.Options{Comparer: mvcc.Comparer, FormatMajorVersion: pebble.FormatNewest, Logger: quietLog{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.damage(db), db.Flush(), db.Close()); err != nil {
				t.Fatal(err)
			}
			r := verify(t, to)
			if (c.want == "none") != r.OK() {
				t.Fatalf("problems: %+v", r.Problems)
			}
			if c.want != "none" && !slices.ContainsFunc(r.Problems, func(p Problem) bool { return c.want == "" || p.Statement == c.want }) {
				t.Errorf("want %q, found %+v", c.want, r.Problems)
			}
		})
	}
}

// page changes the newest state of the one page of bits.
func page(t *testing.T, db *pebble.DB, change func(b []byte)) error {
	t.Helper()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{'r', 0}, UpperBound: []byte{'s', 0}})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.NextPrefix() {
		if b := bytes.Clone(it.Value()); len(b) == 257 {
			change(b[1:])
			return db.Set(bytes.Clone(it.Key()), b, nil)
		}
	}
	return errors.New("no page")
}

// TestVerifyFindsDamageToStores flips bits of the tables of a store, which has no manifest: its own checksums find them.
func TestVerifyFindsDamageToStores(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "store"), embed.Options{})
	fill(t, e, 200)
	backUp(t, e, filepath.Join(dir, "backup"))
	tables, err := filepath.Glob(filepath.Join(dir, "backup", storeName, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("%v, %v", tables, err)
	}
	info, err := os.Stat(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, share := range []int64{10, 30, 50, 70} {
		to := filepath.Join(t.TempDir(), "store")
		if err := os.CopyFS(to, os.DirFS(filepath.Join(dir, "backup", storeName))); err != nil {
			t.Fatal(err)
		}
		if err := flip(filepath.Join(to, filepath.Base(tables[0])), info.Size()*share/100); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, to); r.OK() {
			t.Errorf("bit at %d %% of %s: not found", share, tables[0])
		}
	}
	for what, damage := range map[string]func(path string) error{
		"cut":    func(path string) error { return os.Truncate(path, info.Size()/2) },
		"remove": os.Remove,
	} {
		to := filepath.Join(t.TempDir(), "store")
		if err := os.CopyFS(to, os.DirFS(filepath.Join(dir, "backup", storeName))); err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(to, filepath.Base(tables[0]))); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, to); r.OK() {
			t.Errorf("%s: not found", what)
		}
	}
}

// TestGoldenDirectoriesVerify accepts what each format's own program wrote.
func TestGoldenDirectoriesVerify(t *testing.T) {
	golden, err := filepath.Glob("../embed/testdata/format*.json")
	if err != nil || len(golden) == 0 {
		t.Fatalf("%v, %v", golden, err)
	}
	for _, list := range golden {
		to := filepath.Join(t.TempDir(), "store")
		if err := os.CopyFS(to, os.DirFS(strings.TrimSuffix(list, ".json"))); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, to); !r.OK() || r.Version != 4 || r.Pools != 1 || r.Records != 4 {
			t.Errorf("%s: %+v", list, r)
		}
	}
}
