package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

func newDB(t *testing.T, rows int) *store.DB {
	t.Helper()
	db := store.New(storetest.NewMemory(), store.Options{})
	for from := 0; from < rows; from += 4000 {
		_, err := db.Transact(t.Context(), func(tx *store.Tx) error {
			for i := from; i < min(rows, from+4000); i++ {
				tx.Put(store.Key("row", i), store.Int(int64(i)))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func TestRun(t *testing.T) {
	db := newDB(t, 3)
	broken := errors.New("broken")
	report, err := Run(t.Context(), db, []Invariant{
		{Name: "a.clean", Check: func(ctx context.Context, r store.Reader, _ func(string, string)) error {
			_, _, err := r.Get(ctx, store.Key("row", "absent").Base)
			return errors.Join(err, Scan(ctx, r, store.Prefix("row"), func(store.KV) error { return nil }))
		}},
		{Name: "a.unreadable", Check: func(context.Context, store.Reader, func(string, string)) error { return broken }},
		{Name: "a.many", Check: func(_ context.Context, _ store.Reader, report func(string, string)) error {
			for i := range MaxFindings + 5 {
				report(fmt.Sprint(i), "bad")
			}
			return nil
		}},
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if report.Clean() || report.Count != MaxFindings+5 || len(report.Findings) != MaxFindings || report.Version == 0 {
		t.Errorf("%d of %d findings at version %d", len(report.Findings), report.Count, report.Version)
	}
	if want := (Finding{Invariant: "a.many", Subject: "0", Detail: "bad"}); report.Findings[0] != want {
		t.Errorf("%+v", report.Findings[0])
	}
	if !slices.Equal(report.Checked, []Checked{{"a.clean", 3, 0}, {"a.many", 0, MaxFindings + 5}}) {
		t.Errorf("checked %v", report.Checked)
	}
}

func TestScanPages(t *testing.T) {
	rows := store.MaxRangeRows + 3
	db := newDB(t, rows)
	next := int64(0)
	err := db.View(t.Context(), func(r store.Reader) error {
		return Scan(t.Context(), r, store.Prefix("row"), func(kv store.KV) error {
			if kv.Value.Int != next {
				t.Fatalf("row %d comes after %d", kv.Value.Int, next-1)
			}
			next++
			return nil
		})
	})
	if err != nil || next != int64(rows) {
		t.Errorf("%d rows, %v", next, err)
	}
	stop := errors.New("stop")
	err = db.View(t.Context(), func(r store.Reader) error {
		return Scan(t.Context(), r, store.Prefix("row"), func(store.KV) error { return stop })
	})
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}
