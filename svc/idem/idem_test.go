package idem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

func open(t *testing.T) *store.DB {
	engine := storetest.NewMemory()
	t.Cleanup(func() { engine.Close() })
	return store.New(engine, store.Options{Tenant: "t"})
}

var now = time.UnixMilli(1_700_000_000_000)

func scope(token string) Scope { return Scope{Account: "123456789012", Action: "Run", Token: token} }

// claim makes a record and a resource in one transaction.
func claim(db *store.DB, s Scope, print Fingerprint, resource string, at time.Time) error {
	_, err := db.Transact(context.Background(), func(tx *store.Tx) error {
		Claim(tx, s, print, resource, at)
		tx.Put(store.Key("thing", resource), store.Int(1))
		return nil
	})
	return err
}

func find(t *testing.T, db *store.DB, s Scope) (r Record, found bool) {
	t.Helper()
	err := db.View(context.Background(), func(reader store.Reader) (err error) {
		r, found, err = Find(context.Background(), reader, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, found
}

func TestClaimOnce(t *testing.T) {
	db := open(t)
	var group sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		group.Go(func() { errs[i] = claim(db, scope("a"), Print("same"), fmt.Sprint(i), now) })
	}
	group.Wait()
	winners := 0
	record, _ := find(t, db, scope("a"))
	for i, err := range errs {
		switch met, ok := FromError(err); {
		case err == nil:
			winners++
			if record.Resource != fmt.Sprint(i) {
				t.Errorf("record names %s, winner is %d", record.Resource, i)
			}
		case !ok || met != record:
			t.Errorf("loser %d met %+v (%v), want %+v", i, met, err, record)
		}
	}
	if winners != 1 {
		t.Fatalf("%d claims won, want 1", winners)
	}
	things := 0
	err := db.View(context.Background(), func(r store.Reader) error {
		rows, err := r.Range(context.Background(), store.RangeOptions{Begin: store.Prefix("thing"), End: store.PrefixEnd(store.Prefix("thing"))})
		things = len(rows)
		return err
	})
	if err != nil || things != 1 {
		t.Fatalf("%d resources exist (%v), want 1: a lost claim must take its resource along", things, err)
	}
}

func TestScopes(t *testing.T) {
	db := open(t)
	for i, s := range []Scope{scope("a"), scope("b"), {"123456789012", "Create", "a"}, {"999999999999", "Run", "a"}} {
		if err := claim(db, s, Print(1), fmt.Sprint(i), now); err != nil {
			t.Errorf("claim %+v: %v", s, err)
		}
	}
}

func TestCheck(t *testing.T) {
	type request struct {
		Name string
		Tags map[string]string
	}
	a := Print(request{"x", map[string]string{"a": "1", "b": "2", "c": "3"}})
	for range 20 { // map order
		if b := Print(request{"x", map[string]string{"c": "3", "b": "2", "a": "1"}}); a != b {
			t.Fatal("equal requests have different fingerprints")
		}
	}
	record := Record{Print: a}
	if err := record.Check(scope("t"), a); err != nil {
		t.Errorf("same request: %v", err)
	}
	var mismatch *MismatchError
	if err := record.Check(scope("t"), Print(request{Name: "x"})); !errors.As(err, &mismatch) || mismatch.Scope.Token != "t" {
		t.Errorf("other request: got %v, want a MismatchError of the token", err)
	}
}

func TestValidate(t *testing.T) {
	for token, ok := range map[string]bool{"a": true, strings.Repeat("x", 64): true, "": false, strings.Repeat("x", 65): false, "a\n": false, "é": false} {
		var bad *TokenError
		if err := scope(token).Validate(); (err == nil) != ok || (!ok && !errors.As(err, &bad)) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestCollect(t *testing.T) {
	db := open(t)
	for i := range collectBatch + 10 {
		if err := claim(db, scope(fmt.Sprintf("old%d", i)), Print(i), "r", now); err != nil {
			t.Fatal(err)
		}
	}
	if err := claim(db, scope("young"), Print(0), "r", now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{Lifetime, 0}, {Lifetime + time.Millisecond, collectBatch + 10}, {Lifetime + time.Minute, 0}} {
		n, err := Collect(context.Background(), db, now.Add(c.after))
		if err != nil || n != c.want {
			t.Errorf("after %v: collected %d (%v), want %d", c.after, n, err, c.want)
		}
	}
	if _, found := find(t, db, scope("old3")); found {
		t.Error("a collected record is still found")
	}
	if _, found := find(t, db, scope("young")); !found {
		t.Error("a young record was collected")
	}
	if err := claim(db, scope("old3"), Print(5), "r2", now.Add(Lifetime)); err != nil {
		t.Errorf("a collected token cannot be used again: %v", err)
	}
}

func TestReleasedHoldsResource(t *testing.T) {
	db := open(t)
	held := errors.New("held")
	release := func(s Scope) error {
		_, err := db.Transact(context.Background(), func(tx *store.Tx) error { Released(tx, s, held); tx.Delete(store.Key("thing", "r")); return nil })
		return err
	}
	if err := claim(db, scope("a"), Print(0), "r", now); err != nil {
		t.Fatal(err)
	}
	if err := release(scope("a")); !errors.Is(err, held) {
		t.Errorf("release while the record lives: %v", err)
	}
	if err := release(scope("")); err != nil {
		t.Errorf("release without a token: %v", err)
	}
	seen := 0
	err := db.View(context.Background(), func(r store.Reader) error {
		return Each(context.Background(), r, func(s Scope, record Record) error {
			if s == scope("a") && record.Resource == "r" {
				seen++
			}
			return nil
		})
	})
	if err != nil || seen != 1 {
		t.Errorf("Each saw the record %d times (%v)", seen, err)
	}
}
