package op

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

var now = time.UnixMilli(1_700_000_000_000)

func open(t *testing.T) *store.DB {
	engine := storetest.NewMemory()
	t.Cleanup(func() { engine.Close() })
	return store.New(engine, store.Options{Tenant: "t"})
}

func transact(t *testing.T, db *store.DB, fn func(tx *store.Tx) error) {
	t.Helper()
	if _, err := db.Transact(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, db *store.DB, id ids.Operation) (o Operation, found bool) {
	t.Helper()
	err := db.View(context.Background(), func(r store.Reader) (err error) {
		o, found, err = Get(context.Background(), r, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return o, found
}

func TestIDsAreOrderedAndWellFormed(t *testing.T) {
	var last ids.Operation
	for i := range 1000 {
		id := NewID(now.Add(time.Duration(i)*time.Millisecond), rand.Reader)
		if _, err := ids.Parse[ids.Operation](string(id)); err != nil {
			t.Fatal(err)
		}
		if id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
	if a, b := NewID(now, rand.Reader), NewID(now, rand.Reader); a == b {
		t.Error("two ids of one millisecond are equal")
	}
}

func TestEndsOnce(t *testing.T) {
	db, ctx := open(t), context.Background()
	id := NewID(now, rand.Reader)
	transact(t, db, func(tx *store.Tx) error {
		Begin(tx, Operation{ID: id, Kind: "Run", Target: "i-1", BeganMs: now.UnixMilli()})
		return nil
	})
	transact(t, db, func(tx *store.Tx) error { return Advance(ctx, tx, id, "placed", now.Add(time.Second)) })
	transact(t, db, func(tx *store.Tx) error { return Finish(ctx, tx, id, Failed, "no room", now.Add(2*time.Second)) })
	transact(t, db, func(tx *store.Tx) error { return Finish(ctx, tx, id, Succeeded, "", now.Add(3*time.Second)) })
	transact(t, db, func(tx *store.Tx) error { return Advance(ctx, tx, id, "late", now.Add(4*time.Second)) })
	transact(t, db, func(tx *store.Tx) error { return Finish(ctx, tx, "op-00000000000000000", Failed, "", now) })
	o, found := get(t, db, id)
	if !found || o.State != Failed || o.Error != "no room" || o.EndedMs != now.Add(2*time.Second).UnixMilli() {
		t.Fatalf("operation is %+v", o)
	}
	if len(o.Steps) != 2 || o.Steps[0].Name != "placed" || o.Steps[1].Name != "failed" {
		t.Errorf("steps are %+v", o.Steps)
	}
}

func TestStepsAreBounded(t *testing.T) {
	o := Operation{}
	for range 3 * MaxSteps {
		o.step("again", now)
	}
	o.step("last", now)
	if len(o.Steps) != MaxSteps || o.Steps[MaxSteps-1].Name != "last" {
		t.Errorf("%d steps, the last is %+v", len(o.Steps), o.Steps[len(o.Steps)-1])
	}
}

func TestLatestAndCollect(t *testing.T) {
	db, ctx := open(t), context.Background()
	var all []ids.Operation
	for i := range collectBatch + 20 {
		at := now.Add(time.Duration(i) * time.Millisecond)
		id := NewID(at, rand.Reader)
		all = append(all, id)
		transact(t, db, func(tx *store.Tx) error {
			Begin(tx, Operation{ID: id, Kind: "Run", BeganMs: at.UnixMilli()})
			if i == 5 {
				return nil // runs for ever
			}
			return Finish(ctx, tx, id, Succeeded, "", at)
		})
	}
	err := db.View(ctx, func(r store.Reader) error {
		latest, err := Latest(ctx, r, 3, nil)
		if err == nil && (len(latest) != 3 || latest[0].ID != all[len(all)-1] || latest[2].ID != all[len(all)-3]) {
			t.Errorf("latest three are %+v", latest)
		}
		running, err := Latest(ctx, r, 3, func(o *Operation) bool { return o.State == Running })
		if err == nil && (len(running) != 1 || running[0].ID != all[5]) {
			t.Errorf("running are %+v", running)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Collect(ctx, db, now.Add(Keep)); err != nil || n != 0 {
		t.Errorf("collected %d (%v) too early", n, err)
	}
	if n, err := Collect(ctx, db, now.Add(Keep+time.Hour)); err != nil || n != collectBatch+19 {
		t.Errorf("collected %d (%v), want all but the running one", n, err)
	}
	if _, found := get(t, db, all[5]); !found {
		t.Error("a running operation was collected")
	}
}
