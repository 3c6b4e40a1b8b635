package embed

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/pool"
)

// TestPoolTaken holds that a pool's list of what is taken is what was taken and not given back, over several pages of which
// some are full, and that rows that do not go together are found.
func TestPoolTaken(t *testing.T) {
	db := store.New(open(t, t.TempDir(), Options{}), store.Options{})
	prefix := store.Prefix("pool")
	const size = 2*pool.PageBits + 100
	taken := map[uint64]bool{0: true, size - 1: true}
	transact(t, db, func(tx *store.Tx) { tx.CreatePool(prefix, size, 0, size-1) })
	random := rand.New(rand.NewPCG(1, 2))
	list := func() []uint64 {
		t.Helper()
		var got []uint64
		err := db.View(t.Context(), func(r store.Reader) (err error) { got, err = store.PoolTaken(t.Context(), r, prefix); return err })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	change := func(give []uint64, takes int) {
		t.Helper()
		slots := make([]store.Slot, takes)
		result := transact(t, db, func(tx *store.Tx) {
			for _, element := range give {
				tx.Give(prefix, element)
			}
			for i := range slots {
				slots[i] = tx.Take(prefix, store.Within(0, size-1))
			}
		})
		for _, element := range give {
			delete(taken, element)
		}
		for _, slot := range slots {
			taken[result.Element(slot)] = true
		}
		if got, want := list(), slices.Sorted(maps.Keys(taken)); !slices.Equal(got, want) {
			t.Fatalf("%d are listed, %d are taken", len(got), len(want))
		}
	}
	for len(taken)+200 < size { // pages fill up
		change(nil, 200)
	}
	for range 10 {
		all := slices.Sorted(maps.Keys(taken))
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		change(slices.DeleteFunc(all[:100], func(e uint64) bool { return e == 0 || e == size-1 }), 50)
	}
	for _, key := range [][]byte{pool.FreeKey(prefix), pool.PageKey(prefix, 0, 1), pool.PageKey(prefix, 0, 2), pool.SizeKey(prefix)} {
		spoil(t, db, prefix, key)
	}
	for len(taken) < pool.PageBits+size/2 { // until a page is full, which the level above says
		change(nil, min(100, size-len(taken)))
	}
	change(nil, size-len(taken))
	spoil(t, db, prefix, pool.PageKey(prefix, 1, 0))
}

// spoil deletes a row of a pool, which must be found, and puts it back.
func spoil(t *testing.T, db *store.DB, prefix, key []byte) {
	t.Helper()
	var was store.Value
	taken := func() error {
		return db.View(context.Background(), func(r store.Reader) error {
			_, err := store.PoolTaken(t.Context(), r, prefix)
			return err
		})
	}
	err := db.View(t.Context(), func(r store.Reader) (err error) { was, _, err = r.Get(t.Context(), key); return err })
	if err != nil {
		t.Fatal(err)
	}
	transact(t, db, func(tx *store.Tx) { tx.Delete(store.Template{Base: key}) })
	if taken() == nil {
		t.Errorf("nothing finds that %q is gone", key)
	}
	value := store.Bytes(was.Bytes)
	if was.Kind == store.KindInt64 {
		value = store.Int(was.Int)
	}
	transact(t, db, func(tx *store.Tx) { tx.Put(store.Template{Base: key}, value) })
	if err := taken(); err != nil {
		t.Errorf("after it was put back: %v", err)
	}
}
