package server

import (
	"context"
	"fmt"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/internal/keypair"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

func keyPairExists(tx *store.Tx, a ids.Account, resource string, otherwise error) {
	accountrows.ExpectKeyPairID(tx, a, ids.KeyPair(resource), otherwise)
}

// CreateKeyPair generates a key. See account.Service.
func (s *Service) CreateKeyPair(ctx context.Context, r account.KeyPairRequest) (account.CreatedKeyPair, error) {
	if err := validateKeyPair(r); err != nil {
		return account.CreatedKeyPair{}, err
	}
	if r.DryRun {
		return account.CreatedKeyPair{}, s.nameIsFree(ctx, r)
	}
	public, private, err := keypair.Generate(r.Type, r.Name)
	if err != nil {
		return account.CreatedKeyPair{}, fmt.Errorf("create key pair %q: %w", r.Name, err)
	}
	k, err := s.insertKeyPair(ctx, r, public)
	if err != nil {
		return account.CreatedKeyPair{}, fmt.Errorf("create key pair %q: %w", r.Name, err)
	}
	return account.CreatedKeyPair{KeyPair: k, PrivateKey: private}, nil
}

// ImportKeyPair stores a public key. See account.Service.
func (s *Service) ImportKeyPair(ctx context.Context, r account.KeyPairRequest) (account.KeyPair, error) {
	if err := validateKeyPair(r); err != nil {
		return account.KeyPair{}, err
	}
	public, err := keypair.Parse(r.PublicKey, r.Name)
	if err != nil {
		return account.KeyPair{}, fmt.Errorf("import key pair %q: %w", r.Name, err)
	}
	if r.DryRun {
		return account.KeyPair{}, s.nameIsFree(ctx, r)
	}
	k, err := s.insertKeyPair(ctx, r, public)
	if err != nil {
		return account.KeyPair{}, fmt.Errorf("import key pair %q: %w", r.Name, err)
	}
	return k, nil
}

func validateKeyPair(r account.KeyPairRequest) error {
	if err := validateText("KeyName", r.Name, account.MaxKeyNameBytes); err != nil {
		return err
	}
	return account.ValidateTags(r.Name, r.Tags)
}

// nameIsFree is what a dry run checks beyond the request. What is made is guarded at commit.
func (s *Service) nameIsFree(ctx context.Context, r account.KeyPairRequest) error {
	taken, err := s.DescribeKeyPairs(ctx, r.Account, account.KeyPairSelection{}, func(k *account.KeyPair) bool { return k.Name == r.Name })
	if err == nil && len(taken) > 0 {
		err = &account.DuplicateError{Kind: account.KindKeyPair, Name: r.Name}
	}
	return err
}

func (s *Service) insertKeyPair(ctx context.Context, r account.KeyPairRequest, public keypair.Public) (account.KeyPair, error) {
	k := account.KeyPair{
		ID: ids.New[ids.KeyPair](s.env.Random), Account: r.Account, Name: r.Name, Type: public.Type,
		Fingerprint: public.Fingerprint, PublicKey: public.Line, Created: s.now(), Tags: r.Tags,
	}
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		accountrows.InsertKeyPair(tx, k)
		tagrows.Insert(tx, k.Account, k.ID, k.Tags)
		return nil
	})
	return k, err
}

// DescribeKeyPairs returns the selected pairs. See account.Service.
func (s *Service) DescribeKeyPairs(ctx context.Context, a ids.Account, sel account.KeyPairSelection, match func(*account.KeyPair) bool) ([]account.KeyPair, error) {
	if err := wait(ctx, s.db, s.follower); err != nil {
		return nil, err
	}
	if err := s.tags.WaitTags(ctx); err != nil {
		return nil, err
	}
	wanted := newSelection(sel)
	var out []account.KeyPair
	for _, k := range s.view.keyPairsOf(a) {
		if !wanted.has(k) {
			continue
		}
		k.Tags = s.tags.Tags(a, string(k.ID))
		if match == nil || match(&k) {
			out = append(out, k)
		}
	}
	return out, wanted.missing(sel)
}

// selection marks what of a KeyPairSelection was seen.
type selection struct {
	all   bool
	names map[string]bool
	ids   map[ids.KeyPair]bool
}

func newSelection(sel account.KeyPairSelection) selection {
	w := selection{all: len(sel.Names)+len(sel.IDs) == 0, names: map[string]bool{}, ids: map[ids.KeyPair]bool{}}
	for _, n := range sel.Names {
		w.names[n] = false
	}
	for _, id := range sel.IDs {
		w.ids[id] = false
	}
	return w
}

func (w selection) has(k account.KeyPair) bool {
	_, byName := w.names[k.Name]
	_, byID := w.ids[k.ID]
	if byName {
		w.names[k.Name] = true
	}
	if byID {
		w.ids[k.ID] = true
	}
	return w.all || byName || byID
}

func (w selection) missing(sel account.KeyPairSelection) error {
	for _, n := range sel.Names {
		if !w.names[n] {
			return &account.NotFoundError{Kind: account.KindKeyPair, ID: n}
		}
	}
	for _, id := range sel.IDs {
		if !w.ids[id] {
			return &account.NotFoundError{Kind: account.KindKeyPair, ID: string(id)}
		}
	}
	return nil
}

// DeleteKeyPair removes a pair, if it is there. See account.Service.
func (s *Service) DeleteKeyPair(ctx context.Context, a ids.Account, name string, id ids.KeyPair) (ids.KeyPair, error) {
	var deleted ids.KeyPair
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		k, found, err := accountrows.GetKeyPair(ctx, tx, a, name, id)
		deleted = k.ID
		if err == nil && found {
			accountrows.DeleteKeyPair(tx, k)
			tagrows.Delete(tx, a, k.ID)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("delete key pair %q%s: %w", name, id, err)
	}
	return deleted, nil
}
