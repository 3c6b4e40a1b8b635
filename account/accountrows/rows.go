package accountrows

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

type accountRow struct {
	ID        ids.Account `cbor:"1,keyasint,omitempty"`
	Name      string      `cbor:"2,keyasint,omitempty"`
	CreatedMs int64       `cbor:"3,keyasint,omitempty"`
}

type accessKeyRow struct {
	ID        string      `cbor:"1,keyasint,omitempty"`
	Account   ids.Account `cbor:"2,keyasint,omitempty"`
	Sealed    []byte      `cbor:"3,keyasint,omitempty"` // by the root key, for Purpose(id)
	Disabled  bool        `cbor:"4,keyasint,omitempty"`
	CreatedMs int64       `cbor:"5,keyasint,omitempty"`
}

type keyPairRow struct {
	ID          ids.KeyPair     `cbor:"1,keyasint,omitempty"`
	Account     ids.Account     `cbor:"2,keyasint,omitempty"`
	Name        string          `cbor:"3,keyasint,omitempty"`
	Type        account.KeyType `cbor:"4,keyasint,omitempty"`
	Fingerprint string          `cbor:"5,keyasint,omitempty"`
	PublicKey   string          `cbor:"6,keyasint,omitempty"`
	CreatedMs   int64           `cbor:"7,keyasint,omitempty"`
}

// AccessKey is an access key with its secret as stored.
type AccessKey struct {
	account.AccessKey
	Sealed []byte // see Purpose
}

// Purpose is what the secret of an access key is sealed for.
func Purpose(accessKeyID string) string { return "access key " + accessKeyID }

// DecodeAccount reads a row of FamilyAccount.
func DecodeAccount(v store.Value) (account.Account, error) {
	r, err := row.Decode[accountRow](v.Bytes)
	if err != nil {
		return account.Account{}, fmt.Errorf("decode account: %w", err)
	}
	return account.Account{ID: r.ID, Name: r.Name, Created: time.UnixMilli(r.CreatedMs).UTC()}, nil
}

// DecodeAccessKey reads a row of FamilyAccessKey.
func DecodeAccessKey(v store.Value) (AccessKey, error) {
	r, err := row.Decode[accessKeyRow](v.Bytes)
	if err != nil {
		return AccessKey{}, fmt.Errorf("decode access key: %w", err)
	}
	public := account.AccessKey{ID: r.ID, Account: r.Account, Active: !r.Disabled, Created: time.UnixMilli(r.CreatedMs).UTC()}
	return AccessKey{AccessKey: public, Sealed: r.Sealed}, nil
}

// DecodeKeyPair reads a row of FamilyKeyPair. Tags are not in it.
func DecodeKeyPair(v store.Value) (account.KeyPair, error) {
	r, err := row.Decode[keyPairRow](v.Bytes)
	if err != nil {
		return account.KeyPair{}, fmt.Errorf("decode key pair: %w", err)
	}
	return account.KeyPair{
		ID: r.ID, Account: r.Account, Name: r.Name, Type: r.Type, Fingerprint: r.Fingerprint,
		PublicKey: r.PublicKey, Created: time.UnixMilli(r.CreatedMs).UTC(),
	}, nil
}

// InsertAccount writes a new account with its default quotas. It guards that number and name are free.
func InsertAccount(tx *store.Tx, a account.Account) {
	taken := store.Else(&account.DuplicateError{Kind: account.KindAccount, Name: a.Name})
	encoded := row.Encode(accountRow{ID: a.ID, Name: a.Name, CreatedMs: a.Created.UnixMilli()})
	tx.InsertIfAbsent(key(FamilyAccount, a.ID), encoded, store.Else(&account.DuplicateError{Kind: account.KindAccount, Name: string(a.ID)}))
	tx.InsertIfAbsent(key(familyName, a.Name), store.Bytes([]byte(a.ID)), taken)
	tx.Put(key(familyKeysLeft, a.ID), store.Int(account.MaxAccessKeys))
	for q, limit := range account.DefaultQuotas() {
		tx.Put(leftKey(a.ID, q), store.Int(limit))
		tx.Put(limitKey(a.ID, q), store.Int(limit))
	}
}

// InsertAccessKey writes a new access key and counts it.
func InsertAccessKey(tx *store.Tx, k AccessKey) {
	ExpectAccount(tx, k.Account)
	full := store.Else(&account.LimitError{Kind: account.KindAccessKey, Limit: account.MaxAccessKeys})
	tx.Add(key(familyKeysLeft, k.Account), -1, 0, account.MaxAccessKeys, full)
	encoded := row.Encode(accessKeyRow{
		ID: k.ID, Account: k.Account, Sealed: k.Sealed, Disabled: !k.Active, CreatedMs: k.Created.UnixMilli(),
	})
	tx.InsertIfAbsent(key(FamilyAccessKey, k.ID), encoded, store.Else(&account.DuplicateError{Kind: account.KindAccessKey, Name: k.ID}))
}

// SetAccessKeyActive enables or disables an account's access key; *account.NotFoundError.
func SetAccessKeyActive(ctx context.Context, tx *store.Tx, a ids.Account, id string, active bool) error {
	r, old, err := getAccessKey(ctx, tx, a, id)
	if err != nil {
		return err
	}
	r.Disabled = !active
	if err := row.Rewritable(old.Bytes, r); err != nil {
		return err
	}
	tx.Put(key(FamilyAccessKey, id), row.Encode(r))
	return nil
}

// DeleteAccessKey removes an account's access key; *account.NotFoundError.
func DeleteAccessKey(ctx context.Context, tx *store.Tx, a ids.Account, id string) error {
	if _, _, err := getAccessKey(ctx, tx, a, id); err != nil {
		return err
	}
	tx.Delete(key(FamilyAccessKey, id))
	tx.Add(key(familyKeysLeft, a), 1, 0, account.MaxAccessKeys)
	return nil
}

func getAccessKey(ctx context.Context, tx *store.Tx, a ids.Account, id string) (accessKeyRow, store.Value, error) {
	v, found, err := tx.Get(ctx, key(FamilyAccessKey, id).Base)
	if err != nil {
		return accessKeyRow{}, v, err
	}
	var r accessKeyRow
	if found {
		if r, err = row.Decode[accessKeyRow](v.Bytes); err != nil {
			return r, v, fmt.Errorf("decode access key %s: %w", id, err)
		}
	}
	if r.Account != a {
		return r, v, &account.NotFoundError{Kind: account.KindAccessKey, ID: id}
	}
	return r, v, nil
}

// InsertKeyPair writes a new key pair and charges the quota.
func InsertKeyPair(tx *store.Tx, k account.KeyPair) {
	Charge(tx, k.Account, account.QuotaKeyPairs, 1)
	encoded := row.Encode(keyPairRow{
		ID: k.ID, Account: k.Account, Name: k.Name, Type: k.Type, Fingerprint: k.Fingerprint,
		PublicKey: k.PublicKey, CreatedMs: k.Created.UnixMilli(),
	})
	tx.InsertIfAbsent(keyPairKey(k.Account, k.Name), encoded, store.Else(&account.DuplicateError{Kind: account.KindKeyPair, Name: k.Name}))
	tx.Put(keyPairIDKey(k.Account, k.ID), store.Bytes([]byte(k.Name)))
}

// DeleteKeyPair removes a key pair that the transaction has read, and refunds the quota.
func DeleteKeyPair(tx *store.Tx, k account.KeyPair) {
	tx.Delete(keyPairKey(k.Account, k.Name))
	tx.Delete(keyPairIDKey(k.Account, k.ID))
	Refund(tx, k.Account, account.QuotaKeyPairs, 1)
}

// GetKeyPair reads a key pair by name or, when name is empty, by id; found is false if there is none.
func GetKeyPair(ctx context.Context, tx *store.Tx, a ids.Account, name string, id ids.KeyPair) (k account.KeyPair, found bool, err error) {
	if name == "" {
		v, found, err := tx.Get(ctx, keyPairIDKey(a, id).Base)
		if err != nil || !found {
			return account.KeyPair{}, false, err
		}
		name = string(v.Bytes)
	}
	v, found, err := tx.Get(ctx, keyPairKey(a, name).Base)
	if err != nil || !found {
		return account.KeyPair{}, false, err
	}
	k, err = DecodeKeyPair(v)
	return k, err == nil, err
}

// ExpectKeyPairID guards that a key pair exists; otherwise the transaction fails with otherwise.
func ExpectKeyPairID(tx *store.Tx, a ids.Account, id ids.KeyPair, otherwise error) {
	tx.Expect(keyPairIDKey(a, id), store.Exists(), store.Else(otherwise))
}

// ExpectAccount guards that an account exists.
func ExpectAccount(tx *store.Tx, a ids.Account) {
	missing := &account.NotFoundError{Kind: account.KindAccount, ID: string(a)}
	tx.Expect(key(FamilyAccount, a), store.Exists(), store.Else(missing))
}

// FindAccount returns *account.NotFoundError unless the account exists.
func FindAccount(ctx context.Context, r store.Reader, a ids.Account) error {
	_, found, err := r.Get(ctx, key(FamilyAccount, a).Base)
	if err == nil && !found {
		err = &account.NotFoundError{Kind: account.KindAccount, ID: string(a)}
	}
	return err
}
