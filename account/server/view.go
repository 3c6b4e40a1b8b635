package server

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
)

// view holds the accounts part's rows as they were at one version.
type view struct {
	mu         sync.RWMutex
	accounts   map[ids.Account]account.Account
	accessKeys map[string]accountrows.AccessKey
	keyPairs   map[ids.Account]map[string]account.KeyPair // by name

	// secrets holds what sealed values opened to, of keys in accessKeys only.
	secrets sync.Map
}

func newView() *view {
	v := &view{}
	v.reset()
	return v
}

func (v *view) reset() {
	v.accounts = map[ids.Account]account.Account{}
	v.accessKeys = map[string]accountrows.AccessKey{}
	v.keyPairs = map[ids.Account]map[string]account.KeyPair{}
	v.secrets.Clear()
}

// apply takes a batch of the feed. A row that cannot be read is a broken invariant: only this part writes them.
func (v *view) apply(b follow.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.Snapshot {
		v.reset()
	}
	for _, c := range b.Changes {
		err := v.change(c)
		assert.That(err == nil, "account row at version %d: %v", b.Version, err)
	}
}

func (v *view) change(c store.Change) error {
	family, parts, err := accountrows.ParseKey(c.Key)
	if err != nil {
		return err
	}
	switch family {
	case accountrows.FamilyAccount:
		return change(v.accounts, ids.Account(parts[0]), c, accountrows.DecodeAccount)
	case accountrows.FamilyAccessKey:
		v.secrets.Delete(string(v.accessKeys[parts[0]].Sealed))
		return change(v.accessKeys, parts[0], c, accountrows.DecodeAccessKey)
	case accountrows.FamilyKeyPair:
		owner := ids.Account(parts[0])
		if v.keyPairs[owner] == nil {
			v.keyPairs[owner] = map[string]account.KeyPair{}
		}
		return change(v.keyPairs[owner], parts[1], c, accountrows.DecodeKeyPair)
	}
	return nil
}

// change brings one row's change into a table.
func change[K comparable, V any](table map[K]V, k K, c store.Change, decode func(store.Value) (V, error)) error {
	if c.Deleted {
		delete(table, k)
		return nil
	}
	row, err := decode(c.Value)
	if err == nil {
		table[k] = row
	}
	return err
}

func (v *view) allAccounts() []account.Account {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.SortedFunc(maps.Values(v.accounts), func(a, b account.Account) int { return cmp.Compare(a.ID, b.ID) })
}

func (v *view) accessKey(id string) (accountrows.AccessKey, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	k, found := v.accessKeys[id]
	return k, found
}

// remember keeps an opened secret unless the key has changed meanwhile.
func (v *view) remember(k accountrows.AccessKey, secret string) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if string(v.accessKeys[k.ID].Sealed) == string(k.Sealed) {
		v.secrets.Store(string(k.Sealed), secret)
	}
}

func (v *view) accessKeysOf(a ids.Account) []account.AccessKey {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []account.AccessKey
	for _, k := range v.accessKeys {
		if k.Account == a {
			out = append(out, k.AccessKey)
		}
	}
	slices.SortFunc(out, func(x, y account.AccessKey) int { return cmp.Compare(x.ID, y.ID) })
	return out
}

func (v *view) keyPairsOf(a ids.Account) []account.KeyPair {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.SortedFunc(maps.Values(v.keyPairs[a]), func(x, y account.KeyPair) int { return cmp.Compare(x.Name, y.Name) })
}
