package accountrows

import (
	"context"
	"fmt"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// Invariants returns what must hold of this part's rows.
func Invariants() []check.Invariant {
	return []check.Invariant{
		{
			Name:  "account.access-keys",
			Doc:   "What an account may still make of access keys is the limit less those it has, and each belongs to an account.",
			Check: checkAccessKeys,
		},
		{
			Name:  "account.names",
			Doc:   "Every account is found by its name, and every name, counter and limit belongs to an account.",
			Check: checkNames,
		},
		{
			Name:  "account.key-pairs",
			Doc:   "Every key pair is found by name and by id, and belongs to an account.",
			Check: checkKeyPairs,
		},
		QuotaInvariant("account.key-pair-quota", account.QuotaKeyPairs, countKeyPairs),
		tagrows.Invariant("account.key-pair-tags", func(ctx context.Context, r store.Reader, a ids.Account, resource string) (bool, bool, error) {
			if !strings.HasPrefix(resource, "key-") {
				return false, false, nil
			}
			_, found, err := r.Get(ctx, keyPairIDKey(a, ids.KeyPair(resource)).Base)
			return true, found, err
		}),
	}
}

// QuotaInvariant is the statement that a quota's limit less what is left is what count finds in use, by account. Parts
// that charge a quota export it among their own.
func QuotaInvariant(name string, q account.Quota, count func(context.Context, store.Reader) (map[ids.Account]int64, error)) check.Invariant {
	return check.Invariant{
		Name: name,
		Doc:  fmt.Sprintf("For each account, the limit of quota %s less what is left is what exists.", q),
		Check: func(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
			used, err := count(ctx, r)
			if err != nil {
				return err
			}
			err = scanAccounts(ctx, r, func(a account.Account) error {
				limit, _, err := r.Get(ctx, limitKey(a.ID, q).Base)
				if err != nil {
					return err
				}
				left, _, err := r.Get(ctx, leftKey(a.ID, q).Base)
				if charged := limit.Int - left.Int; err == nil && charged != used[a.ID] {
					report(string(a.ID), fmt.Sprintf("%d of %s are charged, %d exist", charged, q, used[a.ID]))
				}
				delete(used, a.ID)
				return err
			})
			for a, n := range used {
				report(string(a), fmt.Sprintf("does not exist, and has %d of %s", n, q))
			}
			return err
		},
	}
}

func scanAccounts(ctx context.Context, r store.Reader, fn func(account.Account) error) error {
	return check.Scan(ctx, r, store.Prefix(part, FamilyAccount), func(kv store.KV) error {
		a, err := DecodeAccount(kv.Value)
		if err != nil {
			return err
		}
		return fn(a)
	})
}

func checkAccessKeys(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
	held := map[ids.Account]int64{}
	err := check.Scan(ctx, r, store.Prefix(part, FamilyAccessKey), func(kv store.KV) error {
		k, err := DecodeAccessKey(kv.Value)
		held[k.Account]++
		return err
	})
	if err != nil {
		return err
	}
	err = scanAccounts(ctx, r, func(a account.Account) error {
		left, _, err := r.Get(ctx, key(familyKeysLeft, a.ID).Base)
		if err == nil && left.Int+held[a.ID] != account.MaxAccessKeys {
			report(string(a.ID), fmt.Sprintf("%d access keys exist and %d are left", held[a.ID], left.Int))
		}
		delete(held, a.ID)
		return err
	})
	for a := range held {
		report(string(a), "access keys of an account that does not exist")
	}
	return err
}

// checkNames counts the rows that every account has one of, and follows its name to it.
func checkNames(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
	there := map[ids.Account]string{}
	err := check.Scan(ctx, r, store.Prefix(part, FamilyAccount), func(kv store.KV) error {
		a, err := DecodeAccount(kv.Value)
		if err == nil && string(kv.Key) != string(key(FamilyAccount, a.ID).Base) {
			report(string(a.ID), fmt.Sprintf("account is under the key %q", kv.Key))
		}
		there[a.ID] = a.Name
		return err
	})
	if err != nil {
		return err
	}
	named := map[ids.Account]bool{}
	err = check.Scan(ctx, r, store.Prefix(part, familyName), func(kv store.KV) error {
		_, parts, err := ParseKey(kv.Key)
		a := ids.Account(kv.Value.Bytes)
		if name, found := there[a]; err == nil && (!found || name != parts[0]) {
			report(string(a), fmt.Sprintf("the name %q leads to it; its own is %q", parts[0], name))
		}
		named[a] = true
		return err
	})
	if err != nil {
		return err
	}
	for a, name := range there {
		if !named[a] {
			report(string(a), "is not found by its name "+name)
		}
	}
	for _, f := range []Family{familyKeysLeft, familyLeft, familyLimit} {
		err := check.Scan(ctx, r, store.Prefix(part, f), func(kv store.KV) error {
			_, parts, err := ParseKey(kv.Key)
			if err != nil {
				return err
			}
			if _, found := there[ids.Account(parts[0])]; !found {
				report(parts[0], fmt.Sprintf("has a row of %s, but does not exist", f))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkKeyPairs(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
	byID := map[string]string{}
	err := check.Scan(ctx, r, store.Prefix(part, familyKeyPairID), func(kv store.KV) error {
		_, parts, err := ParseKey(kv.Key)
		if err == nil {
			byID[parts[1]] = parts[0] + "/" + string(kv.Value.Bytes)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = check.Scan(ctx, r, store.Prefix(part, FamilyKeyPair), func(kv store.KV) error {
		k, err := DecodeKeyPair(kv.Value)
		if want := string(k.Account) + "/" + k.Name; err == nil && byID[string(k.ID)] != want {
			report(string(k.ID), fmt.Sprintf("key pair %s, but its id leads to %q", want, byID[string(k.ID)]))
		}
		delete(byID, string(k.ID))
		return err
	})
	for id, name := range byID {
		report(id, "id of a key pair that does not exist: "+name)
	}
	return err
}

func countKeyPairs(ctx context.Context, r store.Reader) (map[ids.Account]int64, error) {
	used := map[ids.Account]int64{}
	err := check.Scan(ctx, r, store.Prefix(part, FamilyKeyPair), func(kv store.KV) error {
		k, err := DecodeKeyPair(kv.Value)
		used[k.Account]++
		return err
	})
	return used, err
}
