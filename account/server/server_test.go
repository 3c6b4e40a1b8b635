package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/rootkey"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

const edLine = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9L2gvoYW8dWhetX9AINwhBmHBhkNxU/6LW2aX5oLTB x"

func newService(t *testing.T, o Options) (*Service, *store.DB) {
	t.Helper()
	db := store.New(storetest.NewMemory(), store.Options{Tenant: "root"})
	key, err := rootkey.New(make([]byte, 32), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := New(db, key, o)
	run(t, s)
	t.Cleanup(func() { checkInvariants(t, db) })
	return s, db
}

func run(t *testing.T, s *Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func checkInvariants(t *testing.T, db *store.DB) {
	t.Helper()
	report, err := check.Run(context.Background(), db, accountrows.Invariants())
	if err != nil || !report.Clean() {
		t.Errorf("invariants: %+v, %v", report.Findings, err)
	}
}

func create(t *testing.T, s *Service) ids.Account {
	t.Helper()
	a, _, _, err := s.Create(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return a.ID
}

// as asserts that err is an E.
func as[E error](t *testing.T, err error) E {
	t.Helper()
	var want E
	if !errors.As(err, &want) {
		t.Fatalf("error %v is no %T", err, want)
	}
	return want
}

func TestCreateAndLookup(t *testing.T) {
	s, db := newService(t, Options{})
	ctx := t.Context()
	a, key, secret, err := s.Create(ctx, "first account")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ids.ParseAccount(string(a.ID)); err != nil {
		t.Error(err)
	}
	if !regexp.MustCompile(`^AKIA[A-Z2-7]{16}$`).MatchString(key.ID) || len(secret) != 40 {
		t.Errorf("key %q, secret of %d characters", key.ID, len(secret))
	}
	for range 2 { // opened, then remembered
		if got, gotSecret, err := s.Lookup(ctx, key.ID); err != nil || got != a.ID || gotSecret != secret {
			t.Fatalf("Lookup = %s, %s, %v", got, gotSecret, err)
		}
	}
	if all, err := s.Accounts(ctx); err != nil || len(all) != 1 || all[0] != a {
		t.Errorf("Accounts = %+v, %v", all, err)
	}
	_, _, err = s.Lookup(ctx, "AKIAAAAAAAAAAAAAAAAA")
	as[*account.NotFoundError](t, err)
	assertNowhere(t, db, secret)
}

// assertNowhere asserts that no row holds a secret.
func assertNowhere(t *testing.T, db *store.DB, secret string) {
	t.Helper()
	err := db.View(t.Context(), func(r store.Reader) error {
		rows, err := r.Range(t.Context(), store.RangeOptions{})
		for _, kv := range rows {
			if strings.Contains(string(kv.Value.Bytes), secret) {
				t.Errorf("row %q shows the secret", kv.Key)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCreateRefuses(t *testing.T) {
	s, _ := newService(t, Options{})
	create(t, s)
	_, _, _, err := s.Create(t.Context(), t.Name())
	if e := as[*account.DuplicateError](t, err); e.Kind != account.KindAccount || e.Name != t.Name() {
		t.Errorf("%+v", e)
	}
	for _, name := range []string{"", " x", "x ", "a\nb", "ü", strings.Repeat("x", account.MaxAccountName+1)} {
		_, _, _, err := s.Create(t.Context(), name)
		if e := as[*account.InvalidError](t, err); e.Param != "Name" {
			t.Errorf("%q: %+v", name, e)
		}
	}
}

func TestOnCreateIsPartOfTheTransaction(t *testing.T) {
	var ok bool
	hook := func(_ context.Context, tx *store.Tx, a ids.Account) error {
		tx.Put(store.Key("other", a), store.Int(1))
		if !ok {
			return errors.New("no")
		}
		return nil
	}
	s, db := newService(t, Options{OnCreate: []func(context.Context, *store.Tx, ids.Account) error{hook}})
	if _, _, _, err := s.Create(t.Context(), "a"); err == nil {
		t.Fatal("created in spite of the hook")
	}
	if all, err := s.Accounts(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("Accounts = %v, %v", all, err)
	}
	ok = true
	a := create(t, s)
	err := db.View(t.Context(), func(r store.Reader) error {
		_, found, err := r.Get(t.Context(), store.Prefix("other", a))
		if !found {
			t.Error("hook's row is missing")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAccessKeyLife(t *testing.T) {
	s, _ := newService(t, Options{})
	ctx := t.Context()
	a, other := create(t, s), ids.Account("999999999999")
	second, secret, err := s.CreateAccessKey(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.CreateAccessKey(ctx, a)
	as[*account.LimitError](t, err)
	_, _, err = s.CreateAccessKey(ctx, other)
	as[*account.NotFoundError](t, err)
	as[*account.NotFoundError](t, s.SetAccessKeyActive(ctx, other, second.ID, false))
	as[*account.NotFoundError](t, s.DeleteAccessKey(ctx, other, second.ID))

	if err := s.SetAccessKeyActive(ctx, a, second.ID, false); err != nil {
		t.Fatal(err)
	}
	keys, err := s.AccessKeys(ctx, a)
	if err != nil || len(keys) != 2 {
		t.Fatalf("AccessKeys = %v, %v", keys, err)
	}
	_, _, err = s.Lookup(ctx, second.ID)
	as[*account.NotFoundError](t, err)
	if err := s.SetAccessKeyActive(ctx, a, second.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AccessKeys(ctx, a); err != nil { // the view is up to date after it
		t.Fatal(err)
	}
	if _, got, err := s.Lookup(ctx, second.ID); err != nil || got != secret {
		t.Fatalf("Lookup = %q, %v", got, err)
	}
	if err := s.DeleteAccessKey(ctx, a, second.ID); err != nil {
		t.Fatal(err)
	}
	as[*account.NotFoundError](t, s.DeleteAccessKey(ctx, a, second.ID))
	if _, _, err := s.CreateAccessKey(ctx, a); err != nil {
		t.Fatalf("the deleted key still counts: %v", err)
	}
}

func TestLookupRefusesAnotherRootKey(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{Tenant: "root"})
	services := make([]*Service, 2)
	for i := range services {
		key, err := rootkey.New([]byte(fmt.Sprintf("%032d", i)), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		services[i] = New(db, key, Options{})
		run(t, services[i])
	}
	_, key, _, err := services[0].Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := services[1].Lookup(t.Context(), key.ID); !errors.Is(err, rootkey.ErrSealed) {
		t.Fatalf("Lookup with another root key: %v", err)
	}
}

func TestReadsWithoutAViewAreBehind(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{Tenant: "root"})
	key, err := rootkey.New(make([]byte, 32), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := New(db, key, Options{}) // Run is not called
	create(t, s)
	if _, err := s.Accounts(t.Context()); !errors.Is(err, account.ErrBehind) {
		t.Fatalf("Accounts: %v", err)
	}
}

func TestKeyPairs(t *testing.T) {
	s, _ := newService(t, Options{})
	ctx := t.Context()
	a := create(t, s)
	created, err := s.CreateKeyPair(ctx, account.KeyPairRequest{Account: a, Name: "b", Type: account.KeyEd25519, Tags: map[string]string{"k": "v"}})
	if err != nil || !strings.Contains(created.PrivateKey, "OPENSSH PRIVATE KEY") {
		t.Fatalf("CreateKeyPair = %+v, %v", created.KeyPair, err)
	}
	imported, err := s.ImportKeyPair(ctx, account.KeyPairRequest{Account: a, Name: "a", PublicKey: []byte(edLine)})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.DescribeKeyPairs(ctx, a, account.KeyPairSelection{}, nil)
	if err != nil || len(all) != 2 || all[0].ID != imported.ID || all[1].ID != created.ID || all[1].Tags["k"] != "v" {
		t.Fatalf("DescribeKeyPairs = %+v, %v", all, err)
	}
	tagged, err := s.DescribeKeyPairs(ctx, a, account.KeyPairSelection{}, func(k *account.KeyPair) bool { return k.Tags["k"] == "v" })
	if err != nil || len(tagged) != 1 || tagged[0].Name != "b" {
		t.Fatalf("DescribeKeyPairs with a filter = %+v, %v", tagged, err)
	}
	byBoth := account.KeyPairSelection{Names: []string{"a"}, IDs: []ids.KeyPair{created.ID}}
	if got, err := s.DescribeKeyPairs(ctx, a, byBoth, nil); err != nil || len(got) != 2 {
		t.Fatalf("DescribeKeyPairs by name and id = %+v, %v", got, err)
	}
	for _, sel := range []account.KeyPairSelection{{Names: []string{"zz"}}, {IDs: []ids.KeyPair{"key-00000000"}}} {
		_, err := s.DescribeKeyPairs(ctx, a, sel, nil)
		as[*account.NotFoundError](t, err)
	}
	if none, err := s.DescribeKeyPairs(ctx, "999999999999", account.KeyPairSelection{}, nil); err != nil || len(none) != 0 {
		t.Fatalf("another account sees %+v, %v", none, err)
	}
	_, err = s.ImportKeyPair(ctx, account.KeyPairRequest{Account: a, Name: "b", PublicKey: []byte(edLine)})
	if e := as[*account.DuplicateError](t, err); e.Kind != account.KindKeyPair || e.Name != "b" {
		t.Errorf("%+v", e)
	}
	if id, err := s.DeleteKeyPair(ctx, a, "a", ""); err != nil || id != imported.ID {
		t.Fatalf("DeleteKeyPair by name = %q, %v", id, err)
	}
	if id, err := s.DeleteKeyPair(ctx, a, "", created.ID); err != nil || id != created.ID {
		t.Fatalf("DeleteKeyPair by id = %q, %v", id, err)
	}
	for range 2 {
		if id, err := s.DeleteKeyPair(ctx, a, "a", ""); err != nil || id != "" {
			t.Fatalf("DeleteKeyPair of nothing = %q, %v", id, err)
		}
	}
}

func TestKeyPairRefusals(t *testing.T) {
	s, _ := newService(t, Options{})
	ctx := t.Context()
	a := create(t, s)
	for param, r := range map[string]account.KeyPairRequest{
		"KeyName": {Account: a, Name: "a\nssh-rsa AAAA", Type: account.KeyEd25519},
		"KeyType": {Account: a, Name: "a", Type: "dsa"},
		"Tag":     {Account: a, Name: "a", Type: account.KeyEd25519, Tags: map[string]string{"aws:x": "y"}},
	} {
		_, err := s.CreateKeyPair(ctx, r)
		if e := as[*account.InvalidError](t, err); e.Param != param {
			t.Errorf("%s: %+v", param, e)
		}
	}
	_, err := s.ImportKeyPair(ctx, account.KeyPairRequest{Account: a, Name: "a", PublicKey: []byte("junk")})
	if e := as[*account.InvalidError](t, err); e.Param != "PublicKeyMaterial" {
		t.Errorf("%+v", e)
	}
	if err := s.SetQuota(ctx, a, account.QuotaKeyPairs, 0); err != nil {
		t.Fatal(err)
	}
	_, err = s.ImportKeyPair(ctx, account.KeyPairRequest{Account: a, Name: "a", PublicKey: []byte(edLine)})
	if e := as[*account.QuotaError](t, err); e.Quota != account.QuotaKeyPairs || e.Account != a {
		t.Errorf("%+v", e)
	}
}

func TestQuotaMovesUnderUse(t *testing.T) {
	s, db := newService(t, Options{})
	ctx := t.Context()
	a := create(t, s)
	if err := s.SetQuota(ctx, a, account.QuotaVCPUs, 10); err != nil {
		t.Fatal(err)
	}
	charge := func(n int64) error {
		_, err := db.Transact(ctx, func(tx *store.Tx) error {
			accountrows.Charge(tx, a, account.QuotaVCPUs, n)
			return nil
		})
		return err
	}
	if err := charge(8); err != nil {
		t.Fatal(err)
	}
	as[*account.QuotaError](t, charge(3))
	if err := s.SetQuota(ctx, a, account.QuotaVCPUs, 5); err != nil {
		t.Fatal(err)
	}
	if got := quota(t, s, a, account.QuotaVCPUs); got.Limit != 5 || got.Left != -3 {
		t.Fatalf("after lowering: %+v", got)
	}
	as[*account.QuotaError](t, charge(1))
	_, err := db.Transact(ctx, func(tx *store.Tx) error {
		accountrows.Refund(tx, a, account.QuotaVCPUs, 8)
		return nil
	})
	if got := quota(t, s, a, account.QuotaVCPUs); err != nil || got.Left != 5 {
		t.Fatalf("after the refund: %+v, %v", got, err)
	}
	as[*account.InvalidError](t, s.SetQuota(ctx, a, "nonsense", 1))
	as[*account.InvalidError](t, s.SetQuota(ctx, a, account.QuotaVCPUs, -1))
	as[*account.NotFoundError](t, s.SetQuota(ctx, "999999999999", account.QuotaVCPUs, 1))
	_, err = s.Quotas(ctx, "999999999999")
	as[*account.NotFoundError](t, err)
}

func quota(t *testing.T, s *Service, a ids.Account, q account.Quota) account.QuotaStatus {
	t.Helper()
	all, err := s.Quotas(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range all {
		if status.Quota == q {
			return status
		}
	}
	t.Fatalf("no quota %s", q)
	return account.QuotaStatus{}
}

// TestChargesNeverConflict: 64 chargers and a limit that moves under them end at the exact count.
func TestChargesNeverConflict(t *testing.T) {
	s, db := newService(t, Options{})
	ctx := t.Context()
	a := create(t, s)
	var charged, conflicts atomic.Int64
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			for range 4 {
				result, err := db.Transact(ctx, func(tx *store.Tx) error {
					accountrows.Charge(tx, a, account.QuotaVCPUs, 1)
					return nil
				})
				var full *account.QuotaError
				switch {
				case err == nil:
					charged.Add(1)
					conflicts.Add(int64(result.Attempts - 1))
				case !errors.As(err, &full):
					t.Error(err)
				}
			}
		})
	}
	wait.Go(func() {
		for limit := int64(64); limit <= 128; limit += 16 {
			if err := s.SetQuota(ctx, a, account.QuotaVCPUs, limit); err != nil {
				t.Error(err)
			}
		}
	})
	wait.Wait()
	got := quota(t, s, a, account.QuotaVCPUs)
	if conflicts.Load() != 0 || got.Limit-got.Left != charged.Load() || got.Left < 0 {
		t.Fatalf("%d conflicts, %d charged, quota %+v", conflicts.Load(), charged.Load(), got)
	}
}
