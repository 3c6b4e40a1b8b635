// Package imagerows owns the rows of the image catalog (key prefix "image") and what other parts do with them inside
// their transactions.
//
//	image, row, ID           Image
//	image, name, OWNER, NAME the owner's available image of that name
//	image, owner, OWNER, ID  says whose an image is, for guards of other parts
//
// An available image's row exists and says so; deregistering deletes it. A launch calls Expect, which reads nothing.
//
// Start at Expect and Register.
package imagerows

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Image is an image's row. Keys of fields are never reused.
type Image struct {
	ID           ids.Image    `cbor:"1,keyasint"`
	Owner        ids.Account  `cbor:"2,keyasint"`
	Name         string       `cbor:"3,keyasint"`
	Description  string       `cbor:"4,keyasint,omitempty"`
	Public       bool         `cbor:"5,keyasint,omitempty"`
	SHA256       string       `cbor:"6,keyasint"`
	Bytes        uint64       `cbor:"7,keyasint"`
	Architecture string       `cbor:"8,keyasint"`
	BootMode     string       `cbor:"9,keyasint"`
	RootSnapshot ids.Snapshot `cbor:"10,keyasint"`
	CreatedMs    int64        `cbor:"11,keyasint"`
	// Users are the accounts that may launch the image besides its owner, sorted.
	Users       []ids.Account `cbor:"12,keyasint,omitempty"`
	RootDiskGiB int           `cbor:"13,keyasint,omitempty"`
}

// Permits says whether the account may launch the image.
func (i *Image) Permits(a ids.Account) bool {
	_, named := slices.BinarySearch(i.Users, a)
	return i.Public || i.Owner == a || named
}

// Prefix begins every image's row, for views.
func Prefix() []byte { return store.Prefix("image", "row") }

func key(id ids.Image) store.Template { return store.Key("image", "row", id) }

// ParseKey returns the image that a row under Prefix is of.
func ParseKey(k []byte) (ids.Image, error) {
	parts, err := tuple.Decode(k)
	if err != nil || len(parts) != 3 {
		return "", fmt.Errorf("decode image key %q: %w", k, err)
	}
	id, ok := parts[2].(string)
	if !ok {
		return "", fmt.Errorf("decode image key %q: no id", k)
	}
	return ids.Image(id), nil
}

func nameKey(owner ids.Account, name string) store.Template {
	return store.Key("image", "name", owner, name)
}

func ownerKey(owner ids.Account, id ids.Image) store.Template {
	return store.Key("image", "owner", owner, id)
}

// ExpectOwned fails the transaction with otherwise unless the account owns the image. It reads nothing.
func ExpectOwned(tx *store.Tx, owner ids.Account, id string, otherwise error) {
	tx.Expect(ownerKey(owner, ids.Image(id)), store.Exists(), store.Else(otherwise))
}

// Decode reads a stored image.
func Decode(b []byte) (Image, error) {
	i, err := row.Decode[Image](b)
	if err != nil {
		return i, fmt.Errorf("decode image: %w", err)
	}
	return i, nil
}

// View is the image as clients see it.
func (i *Image) View() *image.Image {
	return &image.Image{
		ID: i.ID, Owner: i.Owner, Name: i.Name, Description: i.Description, Public: i.Public, SHA256: i.SHA256, Bytes: i.Bytes,
		Architecture: i.Architecture, BootMode: i.BootMode, RootDeviceName: image.RootDeviceName, RootSnapshot: i.RootSnapshot,
		Users: i.Users, RootDiskGiB: i.RootDiskGiB, State: image.Available, CreateTime: time.UnixMilli(i.CreatedMs).UTC(),
	}
}

// Expect fails the transaction with *image.NotFoundError unless the image is available at commit. It reads nothing.
func Expect(tx *store.Tx, id ids.Image) {
	tx.Expect(key(id), store.Exists(), store.Else(&image.NotFoundError{IDs: []ids.Image{id}}))
}

// Find returns the owner's available image of a name.
func Find(ctx context.Context, r store.Reader, owner ids.Account, name string) (Image, bool, error) {
	value, found, err := r.Get(ctx, nameKey(owner, name).Base)
	if err != nil || !found {
		return Image{}, false, err
	}
	value, found, err = r.Get(ctx, key(ids.Image(value.Bytes)).Base)
	if err != nil || !found {
		return Image{}, false, err
	}
	i, err := Decode(value.Bytes)
	return i, err == nil, err
}

// Register makes i available under its name. Content that is there already under that name stays what it is and is
// returned; other content is deregistered: what was launched from it goes on. most is how many images the owner may have;
// *image.LimitError beyond.
func Register(ctx context.Context, tx *store.Tx, i Image, most int) (Image, error) {
	old, found, err := Find(ctx, tx, i.Owner, i.Name)
	if err != nil {
		return i, err
	}
	if found && old.SHA256 == i.SHA256 && old.Architecture == i.Architecture && old.Public == i.Public && old.BootMode == i.BootMode {
		return old, nil
	}
	if found {
		remove(tx, old)
	} else if err := checkRoom(ctx, tx, i.Owner, most); err != nil {
		return i, err
	}
	insert(tx, i)
	return i, nil
}

func insert(tx *store.Tx, i Image) {
	tx.Put(key(i.ID), row.Encode(i))
	tx.Put(ownerKey(i.Owner, i.ID), store.Int(1))
	tx.Put(nameKey(i.Owner, i.Name), store.Bytes([]byte(i.ID)))
}

func remove(tx *store.Tx, i Image) {
	tx.Delete(key(i.ID))
	tx.Delete(ownerKey(i.Owner, i.ID))
	tx.Delete(nameKey(i.Owner, i.Name))
	tagrows.Delete(tx, i.Owner, i.ID)
}

// Create makes i available beside the owner's others, as long as the image from, which has the same content, is there at
// commit. most is as for Register. *image.DuplicateError, *image.LimitError, *image.NotFoundError for from.
func Create(ctx context.Context, tx *store.Tx, i Image, from ids.Image, tags map[string]string, most int) error {
	if taken, found, err := Find(ctx, tx, i.Owner, i.Name); err != nil {
		return err
	} else if found {
		return &image.DuplicateError{Name: i.Name, With: taken.ID}
	}
	if err := checkRoom(ctx, tx, i.Owner, most); err != nil {
		return err
	}
	Expect(tx, from)
	insert(tx, i)
	tagrows.Insert(tx, i.Owner, i.ID, tags)
	return nil
}

// checkRoom fails when the owner has as many images as one may have.
func checkRoom(ctx context.Context, tx *store.Tx, owner ids.Account, most int) error {
	prefix := store.Prefix("image", "owner", owner)
	have, err := tx.Range(ctx, store.RangeOptions{Begin: prefix, End: store.PrefixEnd(prefix), Limit: most})
	if err != nil {
		return err
	}
	if len(have) >= most {
		return &image.LimitError{What: "images of an account", Max: most}
	}
	return nil
}

// Deregister removes the owner's image. *image.NotFoundError when it is gone, or another's.
func Deregister(ctx context.Context, tx *store.Tx, owner ids.Account, id ids.Image) error {
	i, _, err := get(ctx, tx, owner, id)
	if err == nil {
		remove(tx, i)
	}
	return err
}

// Modify lets change alter the owner's image, of which only description and permissions may become different.
func Modify(ctx context.Context, tx *store.Tx, owner ids.Account, id ids.Image, change func(*Image) error) error {
	i, stored, err := get(ctx, tx, owner, id)
	if err != nil {
		return err
	}
	if err := change(&i); err != nil {
		return err
	}
	if err := row.Rewritable(stored, i); err != nil {
		return err
	}
	tx.Put(key(id), row.Encode(i))
	return nil
}

func get(ctx context.Context, tx *store.Tx, owner ids.Account, id ids.Image) (i Image, stored []byte, err error) {
	value, found, err := tx.Get(ctx, key(id).Base)
	if err != nil {
		return i, nil, err
	}
	if found {
		i, err = Decode(value.Bytes)
	}
	if err == nil && i.Owner != owner {
		err = &image.NotFoundError{IDs: []ids.Image{id}}
	}
	return i, value.Bytes, err
}

// Invariants returns what must hold of this part's rows.
func Invariants() []check.Invariant {
	return []check.Invariant{
		{
			Name:  "image.names",
			Doc:   "Every available image is found by its owner and name, and every name and owner row leads to an image.",
			Check: checkNames,
		},
		tagrows.Invariant("image.tags", func(ctx context.Context, r store.Reader, a ids.Account, resource string) (bool, bool, error) {
			if !strings.HasPrefix(resource, "ami-") {
				return false, false, nil
			}
			_, found, err := r.Get(ctx, ownerKey(a, ids.Image(resource)).Base)
			return true, found, err
		}),
	}
}

func checkNames(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
	unnamed, unowned := map[string]bool{}, map[string]bool{}
	names := map[string]string{} // the key of each image's name
	err := check.Scan(ctx, r, Prefix(), func(kv store.KV) error {
		i, err := Decode(kv.Value.Bytes)
		unnamed[string(i.ID)], unowned[string(i.ID)] = true, true
		names[string(i.ID)] = string(nameKey(i.Owner, i.Name).Base)
		if err == nil && string(kv.Key) != string(key(i.ID).Base) {
			report(string(i.ID), fmt.Sprintf("image is under the key %q", kv.Key))
		}
		if _, found, missing := r.Get(ctx, ownerKey(i.Owner, i.ID).Base); err == nil && (!found || missing != nil) {
			report(string(i.ID), fmt.Sprintf("image without its owner's row: %s (%v)", i.Owner, missing))
		}
		return err
	})
	if err != nil {
		return err
	}
	err = check.Scan(ctx, r, store.Prefix("image", "name"), func(kv store.KV) error {
		id := string(kv.Value.Bytes)
		if !unnamed[id] {
			report(id, "a name leads to an image that does not exist")
		}
		if own := names[id]; own != "" && own != string(kv.Key) {
			report(id, fmt.Sprintf("the name's row %q leads to it, which is not its own", kv.Key))
		}
		delete(unnamed, id)
		return nil
	})
	if err != nil {
		return err
	}
	owners := 0
	err = check.Scan(ctx, r, store.Prefix("image", "owner"), func(store.KV) error {
		owners++
		return nil
	})
	if owners != len(unowned) {
		report("image", fmt.Sprintf("%d images exist, %d have an owner's row", len(unowned), owners))
	}
	for id := range unnamed {
		report(id, "image without a name's row")
	}
	return err
}
