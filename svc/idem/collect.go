package idem

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Collect removes records older than Lifetime and returns how many. Run it now and then; two at once do no harm.
func Collect(ctx context.Context, db *store.DB, now time.Time) (int, error) {
	removed := 0
	for {
		batch, err := expired(ctx, db, now)
		if err != nil || len(batch) == 0 {
			return removed, err
		}
		_, err = db.Transact(ctx, func(tx *store.Tx) error {
			for _, e := range batch {
				tx.Delete(expiryKey(e.createdMs, e.scope))
				tx.Delete(e.scope.key())
			}
			return nil
		})
		if err != nil {
			return removed, fmt.Errorf("collect client tokens: %w", err)
		}
		removed += len(batch)
	}
}

type entry struct {
	createdMs int64
	scope     Scope
}

func expired(ctx context.Context, db *store.DB, now time.Time) (batch []entry, err error) {
	end := store.Prefix("idem", "age", uint64(max(0, now.Add(-Lifetime).UnixMilli())))
	err = db.View(ctx, func(r store.Reader) error {
		rows, err := r.Range(ctx, store.RangeOptions{Begin: store.Prefix("idem", "age"), End: end, Limit: collectBatch})
		for _, kv := range rows {
			e, err := parseExpiry(kv.Key)
			if err != nil {
				return err
			}
			batch = append(batch, e)
		}
		return err
	})
	return batch, err
}

func parseExpiry(key []byte) (entry, error) {
	parts, err := tuple.Decode(key)
	if err != nil || len(parts) != 6 {
		return entry{}, fmt.Errorf("decode client token key %x: %w", key, err)
	}
	ms, _ := parts[2].(uint64)
	account, _ := parts[3].(string)
	action, _ := parts[4].(string)
	token, _ := parts[5].(string)
	return entry{int64(ms), Scope{Account: ids.Account(account), Action: action, Token: token}}, nil
}

// Unpaired calls fn for every token of which only one row is there: the record, which would never be collected, or the one
// by age, which says that something is remembered and is not. It serves the invariant checker.
func Unpaired(ctx context.Context, r store.Reader, fn func(s Scope, missing string)) error {
	aged := map[Scope]int64{}
	err := check.Scan(ctx, r, store.Prefix("idem", "age"), func(kv store.KV) error {
		e, err := parseExpiry(kv.Key)
		aged[e.scope] = e.createdMs
		return err
	})
	if err != nil {
		return err
	}
	err = Each(ctx, r, func(s Scope, record Record) error {
		if at, found := aged[s]; !found || at != record.CreatedMs {
			fn(s, "a row by its age")
		}
		delete(aged, s)
		return nil
	})
	for s := range aged {
		fn(s, "a record")
	}
	return err
}

// Each calls fn for every record, in key order, from one snapshot. It serves the invariant checker.
func Each(ctx context.Context, r store.Reader, fn func(Scope, Record) error) error {
	return check.Scan(ctx, r, store.Prefix("idem", "record"), func(kv store.KV) error {
		parts, err := tuple.Decode(kv.Key)
		if err != nil || len(parts) != 5 {
			return fmt.Errorf("decode client token key %x: %w", kv.Key, err)
		}
		record, err := row.Decode[Record](kv.Value.Bytes)
		if err != nil {
			return fmt.Errorf("decode client token record %x: %w", kv.Key, err)
		}
		account, _ := parts[2].(string)
		action, _ := parts[3].(string)
		token, _ := parts[4].(string)
		return fn(Scope{Account: ids.Account(account), Action: action, Token: token}, record)
	})
}
