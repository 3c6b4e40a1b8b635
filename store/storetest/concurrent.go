package storetest

import (
	"errors"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/store"
)

// testConcurrentGuards contends for one counter and one pool: nothing conflicts, nothing is given out twice.
func testConcurrentGuards(t *testing.T, e store.Engine) {
	const clients, rounds, size = 16, 40, 500
	ctx := t.Context()
	db := store.New(e, store.Options{Tenant: "t"})
	pool := store.Prefix("pool")
	if _, err := db.Transact(ctx, func(tx *store.Tx) error { tx.CreatePool(pool, size); return nil }); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	taken, versions := map[uint64]bool{}, map[store.Version]bool{}
	var failed int
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for range rounds {
				var n, element store.Slot
				r, err := db.Transact(ctx, func(tx *store.Tx) error {
					n = tx.Add(store.Key("n"), 1, 0, size)
					element = tx.Take(pool)
					return nil
				})
				mu.Lock()
				var g *store.GuardError
				switch {
				case errors.As(err, &g):
					failed++
				case err != nil:
					t.Errorf("transact: %v", err)
				case r.Attempts != 1 || taken[r.Element(element)] || versions[r.Version] || r.Int(n) < 1 || r.Int(n) > size:
					t.Errorf("result %+v: element %d or version seen before, or out of bounds", r, r.Element(element))
				default:
					taken[r.Element(element)], versions[r.Version] = true, true
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(taken) != size || failed != clients*rounds-size {
		t.Errorf("%d taken and %d failed, want %d and %d", len(taken), failed, size, clients*rounds-size)
	}
}

// testConcurrentUpdates reads, adds and writes: conflicts are retried and no update is lost.
func testConcurrentUpdates(t *testing.T, e store.Engine) {
	const clients, rounds = 8, 15
	ctx := t.Context()
	db := store.New(e, store.Options{Tenant: "t", MaxAttempts: 10000})
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := range rounds {
				_, err := db.Transact(ctx, func(tx *store.Tx) error {
					v, _, err := tx.Get(ctx, key("n"))
					if err != nil {
						return err
					}
					rows, err := tx.Range(ctx, store.RangeOptions{Begin: key("row"), End: store.PrefixEnd(key("row"))})
					if err != nil {
						return err
					}
					if int64(len(rows)) != v.Int {
						t.Errorf("n is %d, there are %d rows", v.Int, len(rows))
					}
					tx.Put(store.Key("n"), store.Int(v.Int+1))
					tx.Put(store.Key("row", c, i), store.Int(1))
					return nil
				})
				if err != nil {
					t.Errorf("transact: %v", err)
				}
			}
		})
	}
	group.Wait()
	s := newSuite(t, e)
	if n := s.read(s.snapshot(0), append(store.HandlePrefix(0, "t"), key("n")...)); n != clients*rounds {
		t.Errorf("n = %d, want %d", n, clients*rounds)
	}
}
