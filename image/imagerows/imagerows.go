// Package imagerows owns the rows of the image catalog (key prefix "image") and what other parts do with them inside
// their transactions.
//
//	image, row, ID           Image
//	image, name, OWNER, NAME the owner's available image of that name
//
// An available image's row exists and says so; deregistering deletes it. A launch calls Expect, which reads nothing.
//
// Start at Expect and Register.
package imagerows

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
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
}

// Prefix begins every image's row, for views.
func Prefix() []byte { return store.Prefix("image", "row") }

func key(id ids.Image) store.Template { return store.Key("image", "row", id) }

func nameKey(owner ids.Account, name string) store.Template {
	return store.Key("image", "name", owner, name)
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
		State: image.Available, CreateTime: time.UnixMilli(i.CreatedMs).UTC(),
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
// returned; other content is deregistered: what was launched from it goes on.
func Register(ctx context.Context, tx *store.Tx, i Image) (Image, error) {
	old, found, err := Find(ctx, tx, i.Owner, i.Name)
	if err != nil {
		return i, err
	}
	if found && old.SHA256 == i.SHA256 && old.Architecture == i.Architecture && old.Public == i.Public && old.BootMode == i.BootMode {
		return old, nil
	}
	if found {
		tx.Delete(key(old.ID))
	}
	tx.Put(key(i.ID), row.Encode(i))
	tx.Put(nameKey(i.Owner, i.Name), store.Bytes([]byte(i.ID)))
	return i, nil
}
