package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/guard"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/storetest"
)

type launch struct {
	Name    string `cbor:"1,keyasint"`
	Offset  uint64 `cbor:"2,keyasint"`
	Host    string `cbor:"3,keyasint"`
	Version uint64 `cbor:"4,keyasint"`
	Nested  nested `cbor:"5,keyasint"`
}

type nested struct {
	Left int64 `cbor:"1,keyasint"`
	Ran  bool  `cbor:"2,keyasint"`
}

var errCapacity = errors.New("no capacity")

func open(t *testing.T) *store.DB {
	t.Helper()
	return store.New(storetest.NewMemory(), store.Options{Cell: 1, Tenant: "t"})
}

func transact(t *testing.T, db *store.DB, fn func(tx *store.Tx)) *store.Result {
	t.Helper()
	r, err := db.Transact(context.Background(), func(tx *store.Tx) error { fn(tx); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func get(t *testing.T, db *store.DB, key []byte) (v store.Value, found bool) {
	t.Helper()
	err := db.View(context.Background(), func(r store.Reader) (err error) {
		v, found, err = r.Get(context.Background(), key)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return v, found
}

// TestLaunch composes one transaction as a launch does: capacity by FirstOf, an address by Take, rows named and filled
// by slots.
func TestLaunch(t *testing.T) {
	db := open(t)
	pool := store.Prefix("pool", "subnet-1")
	transact(t, db, func(tx *store.Tx) {
		tx.Put(store.Key("capacity", "h-1"), store.Int(0))
		tx.Put(store.Key("capacity", "h-2"), store.Int(2))
		tx.CreatePool(pool, 256, 0, 1, 2, 3, 255)
	})
	var host, offset store.Slot
	fits := func(h string) store.Alternative {
		return store.Alternative{Label: []byte(h), Guards: func(tx *store.Tx) {
			tx.Guard(guard.All(guard.Add{Key: store.Prefix("capacity", h), Delta: -1, Min: 0, Max: 8}))
		}}
	}
	body := func(tx *store.Tx) error {
		host = tx.FirstOf([]store.Alternative{fits("h-1"), fits("h-2")}, store.Else(errCapacity))
		offset = tx.Take(pool)
		left := tx.Add(store.Key("left"), -1, -10, 0)
		inner := row.Encode(nested{Ran: true}, row.Bind(1, left))
		tx.Put(store.Key("instance", host, offset), row.Encode(launch{Name: "i"}, row.Bind(2, offset),
			row.Bind(3, host), row.Bind(4, tx.CommitVersion()), row.Embed(5, inner)))
		return nil
	}
	for i := range uint64(2) {
		r, err := db.Transact(context.Background(), body)
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Label(host)) != "h-2" || r.Element(offset) != 4+i {
			t.Fatalf("host %q offset %d", r.Label(host), r.Element(offset))
		}
		v, _ := get(t, db, store.Prefix("instance", "h-2", 4+i))
		got, err := row.Decode[launch](v.Bytes)
		want := launch{Name: "i", Offset: 4 + i, Host: "h-2", Version: uint64(r.Version), Nested: nested{Left: -1 - int64(i), Ran: true}}
		if err != nil || got != want {
			t.Fatalf("row %+v, want %+v, %v", got, want, err)
		}
	}
	_, err := db.Transact(context.Background(), body)
	var g *store.GuardError
	if !errors.Is(err, errCapacity) || !errors.As(err, &g) || g.Cause == nil || string(g.Cause.Key) != string(store.Prefix("capacity", "h-1")) {
		t.Fatalf("third launch: %v", err)
	}
	_ = db.View(context.Background(), func(r store.Reader) error {
		if free, err := store.PoolFree(context.Background(), r, pool); err != nil || free != 249 {
			t.Errorf("free %d, %v", free, err)
		}
		return nil
	})
}

// TestConflictRetries runs a read-modify-write against itself.
func TestConflictRetries(t *testing.T) {
	db := open(t)
	key := store.Prefix("n")
	runs := 0
	_, err := db.Transact(context.Background(), func(tx *store.Tx) error {
		runs++
		v, _, err := tx.Get(context.Background(), key)
		if err != nil {
			return err
		}
		if runs <= 2 {
			transact(t, db, func(tx *store.Tx) { tx.Add(store.Key("n"), 10, 0, 100) })
		}
		tx.Put(store.Key("n"), store.Int(v.Int+1))
		return nil
	})
	if err != nil || runs != 3 {
		t.Fatalf("runs %d, %v", runs, err)
	}
	if v, _ := get(t, db, key); v.Int != 21 {
		t.Fatalf("n = %d, want 21", v.Int)
	}
}

func TestConflictGivesUp(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{MaxAttempts: 3})
	_, err := db.Transact(context.Background(), func(tx *store.Tx) error {
		if _, err := tx.Range(context.Background(), store.RangeOptions{}); err != nil {
			return err
		}
		transact(t, db, func(tx *store.Tx) { tx.Add(store.Key("n"), 1, 0, 100) })
		tx.Put(store.Key("m"), store.Int(1))
		return nil
	})
	var c *store.ConflictError
	if !errors.As(err, &c) || c.Attempts != 3 || c.Version != 3 {
		t.Fatalf("got %v", err)
	}
}

// TestUnresolved reads what exists only at commit.
func TestUnresolved(t *testing.T) {
	k := func(s string) []byte { return store.Prefix(s) }
	cases := map[string]struct {
		write    func(tx *store.Tx)
		read     []byte
		resolved bool
	}{
		"added row":           {write: func(tx *store.Tx) { tx.Add(store.Key("a"), 1, 0, 9) }, read: k("a")},
		"other row":           {write: func(tx *store.Tx) { tx.Add(store.Key("a"), 1, 0, 9) }, read: k("b"), resolved: true},
		"put after add":       {write: func(tx *store.Tx) { tx.Add(store.Key("a"), 1, 0, 9); tx.Put(store.Key("a"), store.Int(1)) }, read: k("a"), resolved: true},
		"put in a group":      {write: func(tx *store.Tx) { tx.Group(func(tx *store.Tx) { tx.Put(store.Key("a"), store.Int(1)) }) }, read: k("a")},
		"put":                 {write: func(tx *store.Tx) { tx.Put(store.Key("a"), store.Int(1)) }, read: k("a"), resolved: true},
		"insert":              {write: func(tx *store.Tx) { tx.InsertIfAbsent(store.Key("a"), store.Int(1)) }, read: k("a")},
		"expect":              {write: func(tx *store.Tx) { tx.Expect(store.Key("a"), store.Absent()) }, read: k("a"), resolved: true},
		"value with a slot":   {write: func(tx *store.Tx) { tx.Put(store.Key("a"), store.SlotValue(tx.CommitVersion())) }, read: k("a")},
		"key with a slot":     {write: func(tx *store.Tx) { tx.Put(store.Key("a", tx.CommitVersion()), store.Int(1)) }, read: store.Prefix("a", 7)},
		"beside a slot's key": {write: func(tx *store.Tx) { tx.Put(store.Key("a", tx.CommitVersion()), store.Int(1)) }, read: store.Prefix("b", 7), resolved: true},
		"deleted by a slot":   {write: func(tx *store.Tx) { tx.Delete(store.Key("a", tx.CommitVersion())) }, read: store.Prefix("a", 7)},
		"range delete":        {write: func(tx *store.Tx) { tx.DeleteRange(k("a"), store.PrefixEnd(k("a"))) }, read: store.Prefix("a", 7), resolved: true},
		"pool":                {write: func(tx *store.Tx) { tx.CreatePool(k("p"), 9) }, read: store.FreeKey(k("p"))},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for how, read := range map[string]func(tx *store.Tx) error{
				"get": func(tx *store.Tx) error { _, _, err := tx.Get(context.Background(), c.read); return err },
				"range": func(tx *store.Tx) error {
					_, err := tx.Range(context.Background(), store.RangeOptions{Begin: c.read, End: append(c.read, 0)})
					return err
				},
				"ignored": func(tx *store.Tx) error { _, _, _ = tx.SnapshotGet(context.Background(), c.read); return nil },
			} {
				_, err := open(t).Transact(context.Background(), func(tx *store.Tx) error { c.write(tx); return read(tx) })
				if c.resolved != (err == nil) || (err != nil && !errors.Is(err, store.ErrUnresolved)) {
					t.Errorf("%s: %v", how, err)
				}
			}
		})
	}
}

// TestRangeOverOwnWrites lays a transaction's writes over what it reads.
func TestRangeOverOwnWrites(t *testing.T) {
	db := open(t)
	transact(t, db, func(tx *store.Tx) {
		for i := range 6 {
			tx.Put(store.Key("k", 2*i), store.Int(int64(2*i)))
		}
	})
	ctx := context.Background()
	_, err := db.Transact(ctx, func(tx *store.Tx) error {
		tx.Put(store.Key("k", 3), store.Int(3))
		tx.Delete(store.Key("k", 4))
		tx.Put(store.Key("k", 6), store.Int(66))
		tx.DeleteRange(store.Prefix("k", 8), store.Prefix("k", 10))
		for _, c := range []struct {
			o    store.RangeOptions
			want string
		}{
			{store.RangeOptions{}, "[0 2 3 66 10]"},
			{store.RangeOptions{Reverse: true}, "[10 66 3 2 0]"},
			{store.RangeOptions{Limit: 3}, "[0 2 3]"},
			{store.RangeOptions{Limit: 2, Reverse: true}, "[10 66]"},
			{store.RangeOptions{Begin: store.Prefix("k", 3), End: store.Prefix("k", 7)}, "[3 66]"},
		} {
			rows, err := tx.Range(ctx, c.o)
			if err != nil {
				return err
			}
			var got []int64
			for _, kv := range rows {
				got = append(got, kv.Value.Int)
			}
			if fmt.Sprint(got) != c.want {
				t.Errorf("%+v: %v, want %s", c.o, got, c.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// lossy applies a commit and loses its answer; what it says of the copies is next's.
type lossy struct {
	store.Engine
	sent int
	next func() (*store.Answer, error)
}

func (e *lossy) Commit(ctx context.Context, c *store.Commit) (*store.Answer, error) {
	if e.sent++; e.sent > 1 {
		return e.next()
	}
	if _, err := e.Engine.Commit(ctx, c); err != nil {
		return nil, err
	}
	return nil, store.ErrUnknown
}

// TestRefusedCopyTellsNothing resends a commit that was applied: what is said of the copy alone must not read as "nothing
// was applied", or the caller would run its closure again.
func TestRefusedCopyTellsNothing(t *testing.T) {
	for name, next := range map[string]func() (*store.Answer, error){
		"overloaded": func() (*store.Answer, error) { return store.Refuse(store.ReasonOverloaded, "many wait"), nil },
		"disk full":  func() (*store.Answer, error) { return store.Refuse(store.ReasonDiskFull, "full"), nil },
		"expired":    func() (*store.Answer, error) { return store.Refuse(store.ReasonExpired, "late"), nil },
		"closed":     func() (*store.Answer, error) { return nil, store.ErrClosed },
	} {
		t.Run(name, func(t *testing.T) {
			db := store.New(&lossy{Engine: storetest.NewMemory(), next: next}, store.Options{})
			_, err := db.Transact(t.Context(), func(tx *store.Tx) error { tx.Put(store.Key("n"), store.Int(1)); return nil })
			if !errors.Is(err, store.ErrUnknown) {
				t.Errorf("got %v, want an unknown outcome", err)
			}
		})
	}
	e := &lossy{Engine: storetest.NewMemory()}
	e.next = func() (*store.Answer, error) { return store.Refuse(store.ReasonTooOld, "start over"), nil }
	_, err := store.New(e, store.Options{}).Transact(t.Context(), func(tx *store.Tx) error { tx.Put(store.Key("n"), store.Int(1)); return nil })
	if refused := (*store.RefusedError)(nil); !errors.As(err, &refused) {
		t.Errorf("a refusal after the look for a record is definite, got %v", err)
	}
}
