// Package server is the accounts part's work: it implements account.Service and account.Tagger on the store.
//
// Writes are transactions over accountrows and tagrows. Reads come from two views in memory that follow the store's
// feed; Run feeds them, and until it does every read returns account.ErrBehind.
package server

import (
	"context"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/rootkey"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
)

// readPatience is how long a read waits for its view.
const readPatience = time.Second

// Options of a Service. The zero value is usable.
type Options struct {
	Env env.Env // default: the machine's
	// OnCreate adds what other parts ensure for every new account to the transaction that makes it. It may run several
	// times for one account.
	OnCreate []func(ctx context.Context, tx *store.Tx, a ids.Account) error
}

// Service implements account.Service. Make one with New and keep Run going.
type Service struct {
	db       *store.DB
	key      *rootkey.Key
	env      env.Env
	onCreate []func(ctx context.Context, tx *store.Tx, a ids.Account) error
	tags     *Tags
	view     *view
	follower *follow.Follower
}

var _ account.Service = (*Service)(nil)

// New returns a service on a handle of the accounts' tenant. The root key seals the secrets.
func New(db *store.DB, key *rootkey.Key, o Options) *Service {
	if o.Env.Clock == nil {
		o.Env = env.System()
	}
	s := &Service{db: db, key: key, env: o.Env, onCreate: o.OnCreate, tags: newTags(db), view: newView()}
	s.follower = follow.New(db, accountrows.ViewPrefixes(), s.view.apply)
	s.tags.Register(ids.KeyPair("").Prefix(), string(account.KindKeyPair), keyPairExists)
	return s
}

// Tags returns the tags of all resources. Parts register their kinds with it.
func (s *Service) Tags() *Tags { return s.tags }

// Run feeds the views until ctx ends or the store cannot be followed.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follower.Run(ctx) })
	g.Go(func() error { return s.tags.follower.Run(ctx) })
	return g.Wait()
}

func (s *Service) now() time.Time { return s.env.Clock.Now().UTC().Truncate(time.Millisecond) }

// wait returns once the follower has seen all that is committed now.
func wait(ctx context.Context, db *store.DB, f *follow.Follower) error {
	v, err := db.Version(ctx)
	if err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	if err := f.WaitVersion(patient, v); err != nil {
		return errors.Join(ctx.Err(), account.ErrBehind)
	}
	return nil
}

// Create makes an account. See account.Service.
func (s *Service) Create(ctx context.Context, name string) (account.Account, account.AccessKey, string, error) {
	if err := validateText("Name", name, account.MaxAccountName); err != nil {
		return account.Account{}, account.AccessKey{}, "", err
	}
	a := account.Account{ID: ids.NewAccount(s.env.Random), Name: name, Created: s.now()}
	k, secret := s.newAccessKey(a.ID)
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		accountrows.InsertAccount(tx, a)
		accountrows.InsertAccessKey(tx, k)
		for _, also := range s.onCreate {
			if err := also(ctx, tx, a.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return account.Account{}, account.AccessKey{}, "", fmt.Errorf("create account %q: %w", name, err)
	}
	return a, k.AccessKey, secret, nil
}

// Accounts lists all accounts. See account.Service.
func (s *Service) Accounts(ctx context.Context) ([]account.Account, error) {
	if err := wait(ctx, s.db, s.follower); err != nil {
		return nil, err
	}
	return s.view.allAccounts(), nil
}

// newAccessKey makes an id and a secret as clients know them: 20 characters that begin with AKIA, and 40 of base64.
func (s *Service) newAccessKey(a ids.Account) (accountrows.AccessKey, string) {
	id := "AKIA" + base32.StdEncoding.EncodeToString(s.random(10))
	secret := base64.StdEncoding.EncodeToString(s.random(30))
	public := account.AccessKey{ID: id, Account: a, Active: true, Created: s.now()}
	return accountrows.AccessKey{AccessKey: public, Sealed: s.key.Seal([]byte(secret), accountrows.Purpose(id))}, secret
}

func (s *Service) random(n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(s.env.Random, b)
	assert.That(err == nil, "random source for a key: %v", err)
	return b
}

// CreateAccessKey makes a further key. See account.Service.
func (s *Service) CreateAccessKey(ctx context.Context, a ids.Account) (account.AccessKey, string, error) {
	k, secret := s.newAccessKey(a)
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		accountrows.InsertAccessKey(tx, k)
		return nil
	})
	if err != nil {
		return account.AccessKey{}, "", fmt.Errorf("create access key of %s: %w", a, err)
	}
	return k.AccessKey, secret, nil
}

// SetAccessKeyActive enables or disables a key. See account.Service.
func (s *Service) SetAccessKeyActive(ctx context.Context, a ids.Account, id string, active bool) error {
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		return accountrows.SetAccessKeyActive(ctx, tx, a, id, active)
	})
	if err != nil {
		return fmt.Errorf("change access key %s: %w", id, err)
	}
	return nil
}

// DeleteAccessKey removes a key. See account.Service.
func (s *Service) DeleteAccessKey(ctx context.Context, a ids.Account, id string) error {
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		return accountrows.DeleteAccessKey(ctx, tx, a, id)
	})
	if err != nil {
		return fmt.Errorf("delete access key %s: %w", id, err)
	}
	return nil
}

// AccessKeys lists an account's keys. See account.Service.
func (s *Service) AccessKeys(ctx context.Context, a ids.Account) ([]account.AccessKey, error) {
	if err := wait(ctx, s.db, s.follower); err != nil {
		return nil, err
	}
	return s.view.accessKeysOf(a), nil
}

// Lookup returns the account and secret of an active key. See account.Service.
func (s *Service) Lookup(ctx context.Context, id string) (ids.Account, string, error) {
	k, found := s.view.accessKey(id)
	if !found { // made a moment ago, perhaps
		if err := wait(ctx, s.db, s.follower); err != nil {
			return "", "", err
		}
		k, found = s.view.accessKey(id)
	}
	if !found || !k.Active {
		return "", "", &account.NotFoundError{Kind: account.KindAccessKey, ID: id}
	}
	secret, err := s.unseal(k)
	if err != nil {
		return "", "", fmt.Errorf("look up access key %s: %w", id, err)
	}
	return k.Account, secret, nil
}

// unseal opens a key's secret, once for as long as the view holds the key.
func (s *Service) unseal(k accountrows.AccessKey) (string, error) {
	if secret, ok := s.view.secrets.Load(string(k.Sealed)); ok {
		return secret.(string), nil
	}
	b, err := s.key.Unseal(k.Sealed, accountrows.Purpose(k.ID))
	if err != nil {
		return "", err
	}
	secret := string(b)
	s.view.remember(k, secret)
	return secret, nil
}

// Quotas returns each quota's limit and rest. See account.Service.
func (s *Service) Quotas(ctx context.Context, a ids.Account) ([]account.QuotaStatus, error) {
	var out []account.QuotaStatus
	err := s.db.View(ctx, func(r store.Reader) error {
		if err := accountrows.FindAccount(ctx, r, a); err != nil {
			return err
		}
		var err error
		out, err = accountrows.Quotas(ctx, r, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read quotas of %s: %w", a, err)
	}
	return out, nil
}

func quotaNames() string {
	var names []string
	for q := range account.DefaultQuotas() {
		names = append(names, string(q))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// SetQuota changes a limit. See account.Service.
func (s *Service) SetQuota(ctx context.Context, a ids.Account, q account.Quota, limit int64) error {
	if _, known := account.DefaultQuotas()[q]; !known || limit < 0 || limit > account.MaxQuota {
		return &account.InvalidError{Param: "Quota", Value: fmt.Sprintf("%s=%d", q, limit), Reason: "want one of " + quotaNames() + ", and a limit of 0 or more"}
	}
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		accountrows.ExpectAccount(tx, a)
		return accountrows.SetQuota(ctx, tx, a, q, limit)
	})
	if err != nil {
		return fmt.Errorf("set quota %s of %s: %w", q, a, err)
	}
	return nil
}

// validateText checks a name: printable ASCII that neither begins nor ends with a space.
func validateText(param, s string, maxBytes int) error {
	refuse := func(reason string) error {
		return &account.InvalidError{Param: param, Value: s, Reason: reason}
	}
	switch {
	case s == "" || len(s) > maxBytes:
		return refuse(fmt.Sprintf("want 1 to %d characters", maxBytes))
	case s[0] == ' ' || s[len(s)-1] == ' ':
		return refuse("it begins or ends with a space")
	}
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return refuse("want printable ASCII characters")
		}
	}
	return nil
}
