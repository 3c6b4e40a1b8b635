// Package tagrows owns the tags of all resources of all parts: one row for each tagged resource, so that a resource's
// tags change together.
//
// Key prefix "tag", then account and resource id. A creator calls Insert and a deleter calls Delete in its own
// transaction; other edits go through account.Tagger. Limits are checked by account.ValidateTags before, or by Edit.
package tagrows

import (
	"context"
	"fmt"
	"maps"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/tuple"
)

const part = "tag"

type tagsRow struct {
	Tags map[string]string `cbor:"1,keyasint,omitempty"`
}

func key(a ids.Account, resource string) store.Template { return store.Key(part, a, resource) }

// Prefix is what a view of all tags follows.
func Prefix() []byte { return store.Prefix(part) }

// ParseKey splits a row's key.
func ParseKey(k []byte) (a ids.Account, resource string, err error) {
	parts, err := tuple.Decode(k)
	if err != nil {
		return "", "", fmt.Errorf("parse tag key %q: %w", k, err)
	}
	if len(parts) != 3 || parts[0] != part {
		return "", "", fmt.Errorf("parse tag key %q: not of this part", k)
	}
	owner, ok1 := parts[1].(string)
	resource, ok2 := parts[2].(string)
	if !ok1 || !ok2 {
		return "", "", fmt.Errorf("parse tag key %q: not texts", k)
	}
	return ids.Account(owner), resource, nil
}

// Decode reads a row.
func Decode(v store.Value) (map[string]string, error) {
	r, err := row.Decode[tagsRow](v.Bytes)
	if err != nil {
		return nil, fmt.Errorf("decode tags: %w", err)
	}
	return r.Tags, nil
}

// Insert writes the tags of a resource that this transaction creates; none writes nothing.
func Insert[T ~string](tx *store.Tx, a ids.Account, resource T, tags map[string]string) {
	if len(tags) > 0 {
		tx.Put(key(a, string(resource)), row.Encode(tagsRow{Tags: tags}))
	}
}

// Delete removes the tags of a resource that this transaction deletes.
func Delete[T ~string](tx *store.Tx, a ids.Account, resource T) { tx.Delete(key(a, string(resource))) }

// Edit reads a resource's tags, lets change alter them, and writes what is left; *account.TagLimitError. The caller
// guards that the resource exists.
func Edit(ctx context.Context, tx *store.Tx, a ids.Account, resource string, change func(tags map[string]string)) error {
	v, found, err := tx.Get(ctx, key(a, resource).Base)
	if err != nil {
		return err
	}
	before := map[string]string{}
	if found {
		if before, err = Decode(v); err != nil {
			return err
		}
	}
	after := maps.Clone(before)
	change(after)
	switch {
	case len(after) > account.MaxTagsPerResource && len(after) > len(before):
		return &account.TagLimitError{Resource: resource}
	case maps.Equal(before, after):
	case len(after) == 0:
		tx.Delete(key(a, resource))
	default:
		return rewrite(tx, key(a, resource), v, found, tagsRow{Tags: after})
	}
	return nil
}

func rewrite(tx *store.Tx, k store.Template, old store.Value, found bool, r tagsRow) error {
	if found {
		if err := row.Rewritable(old.Bytes, r); err != nil {
			return err
		}
	}
	tx.Put(k, row.Encode(r))
	return nil
}

// Invariant is the statement that tags belong to resources that exist, for the kinds that exists knows: it returns
// whether the resource is of its part, and then whether it is there.
func Invariant(name string, exists func(ctx context.Context, r store.Reader, a ids.Account, resource string) (mine, found bool, err error)) check.Invariant {
	return check.Invariant{
		Name: name,
		Doc:  "No tag is left of a resource that does not exist.",
		Check: func(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
			return check.Scan(ctx, r, Prefix(), func(kv store.KV) error {
				a, resource, err := ParseKey(kv.Key)
				if err != nil {
					return err
				}
				mine, found, err := exists(ctx, r, a, resource)
				if mine && !found && err == nil {
					report(resource, "has tags in account "+string(a)+", but does not exist")
				}
				return err
			})
		},
	}
}
