package server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
)

// ExpectResource adds to a transaction the guard that a resource of one kind exists in the account, with the error that
// the transaction is to fail with otherwise.
type ExpectResource func(tx *store.Tx, a ids.Account, resource string, otherwise error)

// Tags implements account.Tagger.
type Tags struct {
	db       *store.DB
	follower *follow.Follower

	mu     sync.RWMutex
	kinds  map[string]kind // by id prefix
	tables map[ids.Account]map[string]map[string]string
}

type kind struct {
	name   string
	expect ExpectResource
}

var _ account.Tagger = (*Tags)(nil)

func newTags(db *store.DB) *Tags {
	t := &Tags{db: db, kinds: map[string]kind{}, tables: map[ids.Account]map[string]map[string]string{}}
	t.follower = follow.New(db, [][]byte{tagrows.Prefix()}, t.apply)
	return t
}

// Register makes resources of a kind taggable: idPrefix is what their ids have before the hyphen, name is EC2's
// resource type.
func (t *Tags) Register(idPrefix, name string, expect ExpectResource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kinds[idPrefix] = kind{name: name, expect: expect}
}

func (t *Tags) apply(b follow.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.Snapshot {
		t.tables = map[ids.Account]map[string]map[string]string{}
	}
	for _, c := range b.Changes {
		a, resource, err := tagrows.ParseKey(c.Key)
		assert.That(err == nil, "tag row at version %d: %v", b.Version, err)
		if t.tables[a] == nil {
			t.tables[a] = map[string]map[string]string{}
		}
		err = change(t.tables[a], resource, c, tagrows.Decode)
		assert.That(err == nil, "tag row at version %d: %v", b.Version, err)
	}
}

// Tags returns a resource's tags. See account.TagReader.
func (t *Tags) Tags(a ids.Account, resource string) map[string]string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.tables[a][resource])
}

// WaitTags waits for the view. See account.TagReader.
func (t *Tags) WaitTags(ctx context.Context) error { return wait(ctx, t.db, t.follower) }

// kindOf returns the kind of an id by its prefix, the longest that ends at a hyphen ("eni-attach" before "eni").
func (t *Tags) kindOf(resource string) (kind, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := strings.LastIndexByte(resource, '-')
	if i < 0 {
		return kind{}, false
	}
	k, found := t.kinds[resource[:i]]
	return k, found
}

// CreateTags sets tags. See account.Tagger.
func (t *Tags) CreateTags(ctx context.Context, a ids.Account, resources []string, tags map[string]string) error {
	if len(tags) == 0 {
		return &account.InvalidError{Param: "Tag", Reason: "no tag is given"}
	}
	if err := account.ValidateTags(first(resources), tags); err != nil {
		return err
	}
	err := t.edit(ctx, a, resources, func(have map[string]string) { maps.Copy(have, tags) })
	if err != nil {
		return fmt.Errorf("create tags: %w", err)
	}
	return nil
}

// DeleteTags removes tags. See account.Tagger.
func (t *Tags) DeleteTags(ctx context.Context, a ids.Account, resources []string, tags []account.TagDeletion) error {
	err := t.edit(ctx, a, resources, func(have map[string]string) {
		if len(tags) == 0 {
			clear(have)
		}
		for _, d := range tags {
			if value, found := have[d.Key]; found && (d.Value == nil || *d.Value == value) {
				delete(have, d.Key)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("delete tags: %w", err)
	}
	return nil
}

// edit changes the tags of all resources in one transaction that guards that they exist.
func (t *Tags) edit(ctx context.Context, a ids.Account, resources []string, change func(map[string]string)) error {
	resources = slices.Compact(slices.Sorted(slices.Values(resources)))
	if len(resources) == 0 || len(resources) > account.MaxTagResources {
		return &account.InvalidError{Param: "ResourceId", Reason: fmt.Sprintf("want 1 to %d resources", account.MaxTagResources)}
	}
	_, err := t.db.Transact(ctx, func(tx *store.Tx) error {
		for _, resource := range resources {
			if err := t.expect(tx, a, resource); err != nil {
				return err
			}
			if err := tagrows.Edit(ctx, tx, a, resource, change); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// expect makes the transaction fail unless the resource exists.
func (t *Tags) expect(tx *store.Tx, a ids.Account, resource string) error {
	missing := &account.NotFoundError{Kind: account.KindResource, ID: resource}
	k, known := t.kindOf(resource)
	if !known {
		return missing
	}
	k.expect(tx, a, resource, missing)
	return nil
}

// DescribeTags returns the matching tags. See account.Tagger.
func (t *Tags) DescribeTags(ctx context.Context, a ids.Account, match func(*account.Tag) bool) ([]account.Tag, error) {
	if err := t.WaitTags(ctx); err != nil {
		return nil, err
	}
	var out []account.Tag
	for resource, tags := range t.snapshot(a) {
		k, _ := t.kindOf(resource)
		for key, value := range tags {
			tag := account.Tag{Resource: resource, Kind: k.name, Key: key, Value: value}
			if match == nil || match(&tag) {
				out = append(out, tag)
			}
		}
	}
	slices.SortFunc(out, func(x, y account.Tag) int {
		return cmp.Or(cmp.Compare(x.Resource, y.Resource), cmp.Compare(x.Key, y.Key))
	})
	return out, nil
}

// snapshot returns an account's table. The inner maps are shared and never change.
func (t *Tags) snapshot(a ids.Account) map[string]map[string]string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.tables[a])
}

func first(resources []string) string {
	if len(resources) == 0 {
		return ""
	}
	return resources[0]
}
