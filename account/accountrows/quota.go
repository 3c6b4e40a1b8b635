package accountrows

import (
	"context"
	"math"
	"slices"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// Charge takes n from what is left of a quota. If less is left, the transaction fails with *account.QuotaError. It is one
// guard, so charges never conflict with each other.
func Charge(tx *store.Tx, a ids.Account, q account.Quota, n int64) {
	tx.Add(leftKey(a, q), -n, 0, math.MaxInt64, store.Else(&account.QuotaError{Account: a, Quota: q, Wanted: n}))
}

// Refund gives n back. It holds also while the quota is overdrawn by a lowered limit.
func Refund(tx *store.Tx, a ids.Account, q account.Quota, n int64) {
	tx.Add(leftKey(a, q), n, math.MinInt64, math.MaxInt64)
}

// SetQuota changes a limit by adding the difference to what is left.
func SetQuota(ctx context.Context, tx *store.Tx, a ids.Account, q account.Quota, limit int64) error {
	v, _, err := tx.Get(ctx, limitKey(a, q).Base)
	if err != nil {
		return err
	}
	tx.Put(limitKey(a, q), store.Int(limit))
	tx.Add(leftKey(a, q), limit-v.Int, math.MinInt64, math.MaxInt64)
	return nil
}

// Quotas reads all quotas of an account by name.
func Quotas(ctx context.Context, r store.Reader, a ids.Account) ([]account.QuotaStatus, error) {
	var out []account.QuotaStatus
	for q := range account.DefaultQuotas() {
		limit, _, err := r.Get(ctx, limitKey(a, q).Base)
		if err != nil {
			return nil, err
		}
		left, _, err := r.Get(ctx, leftKey(a, q).Base)
		if err != nil {
			return nil, err
		}
		out = append(out, account.QuotaStatus{Quota: q, Limit: limit.Int, Left: left.Int})
	}
	slices.SortFunc(out, func(x, y account.QuotaStatus) int { return compare(x.Quota, y.Quota) })
	return out, nil
}

func compare(x, y account.Quota) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}
