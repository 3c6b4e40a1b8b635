package dispatchrows

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/storetest"
)

type payload struct {
	Name    string `cbor:"1,keyasint"`
	Address uint64 `cbor:"2,keyasint"`
	Host    string `cbor:"3,keyasint"`
}

func newDB() *store.DB { return store.New(storetest.NewMemory(), store.Options{}) }

func transact(t *testing.T, db *store.DB, fn func(tx *store.Tx) error) *store.Result {
	t.Helper()
	r, err := db.Transact(t.Context(), fn)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func items(t *testing.T, db *store.DB, doc, section string) (out []Item) {
	t.Helper()
	err := db.View(t.Context(), func(r store.Reader) (err error) {
		out, err = Items(t.Context(), r, doc, section)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func findings(t *testing.T, db *store.DB) (out []string) {
	t.Helper()
	err := db.View(t.Context(), func(r store.Reader) error {
		for _, inv := range Invariants() {
			if err := inv.Check(t.Context(), r, func(subject, detail string) { out = append(out, inv.Name+" "+subject+": "+detail) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSlotsReachDocumentRevisionAndPayload(t *testing.T) {
	db := newDB()
	pool := store.Prefix("pool")
	transact(t, db, func(tx *store.Tx) error { tx.CreatePool(pool, 16, 0, 1, 2, 3); return nil })
	var seq store.Slot
	r := transact(t, db, func(tx *store.Tx) error {
		address := tx.Take(pool)
		chosen := tx.FirstOf([]store.Alternative{
			{Label: []byte("h-1"), Guards: func(tx *store.Tx) { tx.Expect(store.Key("room", "h-1"), store.Exists()) }},
			{Label: []byte("h-2"), Guards: func(*store.Tx) {}},
		})
		seq = Put(tx, ForLabel("host/", chosen), "interfaces", "eni-1",
			row.Encode(payload{Name: "eni-1"}, row.Bind(2, address), row.Bind(3, chosen)), Topics("vpc/v-1", "fleet"))
		return nil
	})
	got := items(t, db, "host/h-2", "interfaces")
	if len(got) != 1 || got[0].Rev != 1 || r.Int(seq) != 1 || strings.Join(got[0].Topics, " ") != "vpc/v-1 fleet" {
		t.Fatalf("items %+v, sequence %d", got, r.Int(seq))
	}
	p, err := row.Decode[payload](got[0].Payload)
	if err != nil || p != (payload{"eni-1", 4, "h-2"}) {
		t.Fatalf("payload %+v, %v", p, err)
	}
	if len(items(t, db, "host/h-1", "interfaces")) != 0 {
		t.Fatal("an item at the host that was not chosen")
	}
}

func TestEachChangeHasItsRevision(t *testing.T) {
	db := newDB()
	d := Named("vpc/v-1")
	transact(t, db, func(tx *store.Tx) error {
		Put(tx, d, "groups", "sg-1", row.Encode(payload{Name: "one"}))
		Put(tx, d, "groups", "sg-2", row.Encode(payload{Name: "two"}))
		Put(tx, d, "mappings", "eni", row.Encode(payload{Name: "three"}))
		return nil
	})
	transact(t, db, func(tx *store.Tx) error { Delete(tx, d, "groups", "sg-1"); return nil })
	got := items(t, db, "vpc/v-1", "groups")
	if len(got) != 1 || got[0].Key != "sg-2" || got[0].Rev != 2 {
		t.Fatalf("items %+v", got)
	}
	if found := findings(t, db); len(found) != 0 {
		t.Fatal(found)
	}
	transact(t, db, func(tx *store.Tx) error {
		return Collect(t.Context(), tx, dispatch.SectionID{Doc: "vpc/v-1", Section: "groups"}, "sg-1", 3)
	})
	if found := findings(t, db); len(found) != 0 {
		t.Fatal(found)
	}
	err := db.View(t.Context(), func(r store.Reader) error {
		v, _, err := r.Get(t.Context(), d.key(tableFloor, "groups").Base)
		if v.Int != 3 {
			t.Errorf("floor is %d after a tombstone at 3 was collected: a reader before it would miss the deletion", v.Int)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	transact(t, db, func(tx *store.Tx) error { Drop(tx, "vpc/v-1"); return nil })
	err = db.View(t.Context(), func(r store.Reader) error {
		return Scan(t.Context(), r, Watched(), func(kv store.KV) error { return fmt.Errorf("row %x left", kv.Key) })
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWritersOfOneSectionNeverConflict is why the sequence is a guard.
func TestWritersOfOneSectionNeverConflict(t *testing.T) {
	db := newDB()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				r, err := db.Transact(t.Context(), func(tx *store.Tx) error {
					Put(tx, Named("vpc/v-1"), "mappings", fmt.Sprintf("%d-%d", w, i), row.Encode(payload{}))
					return nil
				})
				if err != nil || r.Attempts != 1 {
					t.Errorf("put: attempts %v, %v", r, err)
				}
			}
		})
	}
	wg.Wait()
	revs := map[dispatch.Rev]bool{}
	for _, it := range items(t, db, "vpc/v-1", "mappings") {
		revs[it.Rev] = true
	}
	if len(revs) != 200 || len(findings(t, db)) != 0 {
		t.Fatalf("%d revisions, findings %v", len(revs), findings(t, db))
	}
}

func TestTombstonePutAgainIsNotCollected(t *testing.T) {
	db := newDB()
	id := dispatch.SectionID{Doc: "vpc/v-1", Section: "groups"}
	transact(t, db, func(tx *store.Tx) error { Delete(tx, Named(id.Doc), id.Section, "sg"); return nil })
	transact(t, db, func(tx *store.Tx) error { Put(tx, Named(id.Doc), id.Section, "sg", row.Encode(payload{})); return nil })
	transact(t, db, func(tx *store.Tx) error { return Collect(t.Context(), tx, id, "sg", 1) })
	if len(items(t, db, id.Doc, id.Section)) != 1 {
		t.Fatal("a live item was collected")
	}
}

func TestInvariantsBite(t *testing.T) {
	for name, damage := range map[string]func(tx *store.Tx){
		"both have revision": func(tx *store.Tx) {
			tx.Put(Named("d").key(tableItem, "s", "twin"), row.Encode(itemRow{Rev: 1}))
		},
		"has revision 9":         func(tx *store.Tx) { tx.Put(Named("d").key(tableItem, "s", "x"), row.Encode(itemRow{Rev: 9})) },
		"has rows and no":        func(tx *store.Tx) { tx.Delete(Named("d").key(tableSeq, "s")) },
		"were collected up to 8": func(tx *store.Tx) { tx.Put(Named("d").key(tableFloor, "s"), store.Int(8)) },
		"key hash of 3 bytes":    func(tx *store.Tx) { PutIdentity(tx, "host/h-1", []byte{1, 2, 3}) },
	} {
		db := newDB()
		transact(t, db, func(tx *store.Tx) error { Put(tx, Named("d"), "s", "x", row.Encode(payload{})); return nil })
		transact(t, db, func(tx *store.Tx) error { damage(tx); return nil })
		if found := findings(t, db); len(found) == 0 || !strings.Contains(strings.Join(found, "\n"), name) {
			t.Errorf("%s: findings %v", name, found)
		}
	}
}

func TestRedeem(t *testing.T) {
	db := newDB()
	now := time.UnixMilli(1_000_000)
	put := func(token, target string) {
		transact(t, db, func(tx *store.Tx) error {
			PutToken(tx, token, Token{ExpiryMs: now.Add(time.Hour).UnixMilli(), Target: target})
			return nil
		})
	}
	redeem := func(token, target, key string, at time.Time) error {
		_, err := db.Transact(t.Context(), func(tx *store.Tx) error { return Redeem(t.Context(), tx, token, target, []byte(key), at) })
		return err
	}
	put("any", "host/")
	put("late", "host/")
	put("named", "host/h-1")
	for _, c := range []struct {
		token, target, key string
		at                 time.Time
		want               error
	}{
		{"nothing", "host/h-1", "k1", now, dispatch.ErrTokenInvalid},
		{"any", "edge/e-1", "k1", now, dispatch.ErrTokenInvalid},
		{"any", "host/", "k1", now, dispatch.ErrTokenInvalid},
		{"any", "host/h-1", "k1", now.Add(2 * time.Hour), dispatch.ErrTokenInvalid},
		{"any", "host/h-1", "k1", now, nil},
		{"any", "host/h-1", "k1", now, nil},
		{"any", "host/h-1", "k2", now, dispatch.ErrTokenInvalid},
		{"any", "host/h-2", "k1", now, dispatch.ErrTokenInvalid},
		{"late", "host/h-1", "k2", now, dispatch.ErrTargetExists},
		{"named", "host/h-1", "k2", now, nil},
	} {
		if err := redeem(c.token, c.target, c.key, c.at); !errors.Is(err, c.want) {
			t.Errorf("redeem %s for %s with %s: %v, want %v", c.token, c.target, c.key, err, c.want)
		}
	}
	err := db.View(t.Context(), func(r store.Reader) error {
		v, _, err := r.Get(t.Context(), Named("host/h-1").key(tableEpoch).Base)
		if v.Int != 1 {
			t.Errorf("epoch was raised %d times by one replacement", v.Int)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	transact(t, db, func(tx *store.Tx) error { return CollectTokens(t.Context(), tx, now.Add(2*time.Hour)) })
	err = db.View(t.Context(), func(r store.Reader) error {
		return Scan(t.Context(), r, store.Prefix(Prefix, tableToken), func(store.KV) error { return errors.New("an expired token is left") })
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTokenIsUsedOnceByManyAtOnce has the store decide who wins.
func TestTokenIsUsedOnceByManyAtOnce(t *testing.T) {
	db := newDB()
	transact(t, db, func(tx *store.Tx) error {
		PutToken(tx, "once", Token{ExpiryMs: math.MaxInt64, Target: "host/"})
		return nil
	})
	var wg sync.WaitGroup
	won := make(chan string, 16)
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("host/h-%d", i)
			_, err := db.Transact(context.Background(), func(tx *store.Tx) error {
				return Redeem(context.Background(), tx, "once", name, []byte(name), time.UnixMilli(1))
			})
			if err == nil {
				won <- name
			} else if !errors.Is(err, dispatch.ErrTokenInvalid) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d targets joined with one token", len(won))
	}
}

// TestGoldenRows pins the stored form of version 1.
func TestGoldenRows(t *testing.T) {
	encoded := hex.EncodeToString(row.Encode(itemRow{Rev: 5, Payload: row.Encode(map[int]string{1: "one"}).Base, Topics: []string{"vpc/v-1"}}).Base)
	if want := "a3010502a101636f6e650381677670632f762d31"; encoded != want {
		t.Errorf("item row %s, want %s", encoded, want)
	}
	tombstone := hex.EncodeToString(row.Encode(itemRow{Rev: 6, Deleted: true}).Base)
	if want := "a2010604f5"; tombstone != want {
		t.Errorf("tombstone row %s, want %s", tombstone, want)
	}
	key := hex.EncodeToString(Named("host/h-1").key(tableItem, "instances", "i-1").Base)
	if want := hex.EncodeToString([]byte("\x02dispatch\x00\x02item\x00\x02host\x00\x02h-1\x00\x02instances\x00\x02i-1\x00")); key != want {
		t.Errorf("item key %s, want %s", key, want)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(Named("host/h-1").key(tableItem, "s", "k").Base)
	f.Add(Named("fleet").key(tableSeq, "hosts").Base)
	f.Add(Named("host/h-1").key(tableEpoch).Base)
	f.Add(tokenKey("t").Base)
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKey(b)
		if err == nil && k.Table == 0 {
			t.Fatalf("key %x parsed as nothing", b)
		}
	})
}
