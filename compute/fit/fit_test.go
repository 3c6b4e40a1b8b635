package fit

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// rowsView reads counters from one snapshot: what a perfectly fresh chooser would see.
type rowsView struct {
	t *testing.T
	r store.Reader
}

func (v rowsView) Int(key []byte) (int64, bool) {
	value, found, err := v.r.Get(context.Background(), key)
	if err != nil {
		v.t.Fatal(err)
	}
	return value.Int, found
}

// TestChooserAndTransactorAgree: on the same state the guard's Eval and the commit give the same answer, for random
// capacities and needs.
func TestChooserAndTransactorAgree(t *testing.T) {
	engine := storetest.NewMemory()
	defer engine.Close()
	db, ctx := store.New(engine, store.Options{}), context.Background()
	random := rand.New(rand.NewPCG(7, 7))
	size := func(n int64) Size {
		return Size{random.Int64N(n), random.Int64N(n), random.Int64N(n), random.Int64N(n)}
	}
	fits := 0
	for i := range 300 {
		h := ids.Host(string(rune('a'+i%26)) + string(rune('a'+i/26)))
		if _, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Guard(Resize(h, size(8))); return nil }); err != nil {
			t.Fatal(err)
		}
		need := size(5)
		var chooser error
		if err := db.View(ctx, func(r store.Reader) error { chooser = Take(h, need).Eval(rowsView{t, r}); return nil }); err != nil {
			t.Fatal(err)
		}
		_, transactor := db.Transact(ctx, func(tx *store.Tx) error { tx.Guard(Take(h, need)); return nil })
		if (chooser == nil) != (transactor == nil) {
			t.Fatalf("need %+v: chooser says %v, transactor says %v", need, chooser, transactor)
		}
		if chooser == nil {
			fits++
		}
	}
	if fits < 30 || fits > 270 {
		t.Fatalf("%d of 300 fit: the test sees one side only", fits)
	}
}

func TestTakeReturnResizeDrain(t *testing.T) {
	engine := storetest.NewMemory()
	defer engine.Close()
	db, ctx := store.New(engine, store.Options{}), context.Background()
	kind, _ := compute.TypeNamed("t3.micro")
	one := Of(kind, 8)
	if want := (Size{2, 1024 + compute.GuestOverheadMiB, 8, 1}); one != want {
		t.Fatalf("t3.micro with 8 GiB takes %+v, want %+v", one, want)
	}
	do := func(want bool, what string, fn func(tx *store.Tx)) {
		t.Helper()
		_, err := db.Transact(ctx, func(tx *store.Tx) error { fn(tx); return nil })
		if (err == nil) != want {
			t.Fatalf("%s: %v", what, err)
		}
	}
	do(true, "register", func(tx *store.Tx) { tx.Guard(Resize("h", one)) })
	do(true, "take", func(tx *store.Tx) { tx.Guard(Take("h", one)) })
	do(false, "take when full", func(tx *store.Tx) { tx.Guard(Take("h", one)) })
	do(true, "shrink below use", func(tx *store.Tx) { tx.Guard(Resize("h", Size{}.Sub(Size{VCPUs: 1}))) })
	do(true, "return", func(tx *store.Tx) { tx.Guard(Return("h", one)) })
	do(false, "take of the shrunk host", func(tx *store.Tx) { tx.Guard(Take("h", one)) })
	do(true, "grow", func(tx *store.Tx) { tx.Guard(Resize("h", Size{VCPUs: 1})) })
	do(true, "drain", func(tx *store.Tx) { tx.Guard(Resize("h", Size{Slots: -DrainWeight})) })
	do(false, "take while draining", func(tx *store.Tx) { tx.Guard(Take("h", one)) })
	do(true, "drain ends", func(tx *store.Tx) { tx.Guard(Resize("h", Size{Slots: DrainWeight})) })
	do(true, "take", func(tx *store.Tx) { tx.Guard(Take("h", one)) })
}
