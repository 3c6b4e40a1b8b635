package dispatchrows

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

// Prefix begins every key of this package.
const Prefix = "dispatch"

const (
	tableSeq      = "seq"
	tableItem     = "item"
	tableFloor    = "floor"
	tableEpoch    = "epoch"
	tableIdentity = "identity"
	tableToken    = "token"
)

// Doc names a document, perhaps by a slot.
type Doc struct {
	kind string
	id   any // string or store.Slot
}

// Named is a document whose name is known now. It panics on a name that dispatch.ValidateName refuses.
func Named(name string) Doc {
	err := dispatch.ValidateName(name)
	assert.That(err == nil, "document: %v", err)
	kind, id, _ := strings.Cut(name, "/")
	return Doc{kind, id}
}

// ForLabel is the document whose name is prefix, which ends in its only slash, and the label that the slot becomes.
func ForLabel(prefix string, label store.Slot) Doc {
	kind, rest, found := strings.Cut(prefix, "/")
	assert.That(found && rest == "" && label.Kind == store.SlotLabel, "document prefix %q with slot kind %d", prefix, label.Kind)
	return Doc{kind, label}
}

func nameOf(kind, id string) string {
	if id == "" {
		return kind
	}
	return kind + "/" + id
}

func (d Doc) key(table string, more ...any) store.Template {
	return store.Key(append([]any{Prefix, table, d.kind, d.id}, more...)...)
}

// itemRow is the schema of an item. Revision and payload are bound at encoding.
type itemRow struct {
	Rev     uint64          `cbor:"1,keyasint"`
	Payload cbor.RawMessage `cbor:"2,keyasint,omitempty"`
	Topics  []string        `cbor:"3,keyasint,omitempty"`
	Deleted bool            `cbor:"4,keyasint,omitempty"`
}

// ItemOption changes how an item is put.
type ItemOption func(*itemRow)

// Topics names the documents that the item needs: its target is subscribed to them, and shows the item only when they are
// at least as new as the item's commit. Only items of a target's own document subscribe it.
func Topics(docs ...string) ItemOption {
	return func(r *itemRow) {
		assert.That(len(r.Topics)+len(docs) <= dispatch.MaxTopics, "item with %d topics, limit %d", len(r.Topics)+len(docs), dispatch.MaxTopics)
		r.Topics = append(r.Topics, docs...)
	}
}

// Put writes an item's desired state. The payload is one CBOR value of at most dispatch.MaxPayloadBytes, as row.Encode
// makes it. The slot becomes the section's sequence, which is the item's revision.
func Put(tx *store.Tx, d Doc, section, key string, payload store.Template, options ...ItemOption) store.Slot {
	assert.That(len(payload.Base) <= dispatch.MaxPayloadBytes, "item %s with a payload of %d bytes, limit %d", key, len(payload.Base), dispatch.MaxPayloadBytes)
	var r itemRow
	for _, o := range options {
		o(&r)
	}
	return write(tx, d, section, key, r, row.Embed(2, payload))
}

// Delete leaves a tombstone. The slot becomes the sequence past which a target's applied mark says that the item is gone
// there.
func Delete(tx *store.Tx, d Doc, section, key string) store.Slot {
	return write(tx, d, section, key, itemRow{Deleted: true})
}

func write(tx *store.Tx, d Doc, section, key string, r itemRow, fields ...row.Field) store.Slot {
	err := dispatch.ValidateName(section)
	assert.That(err == nil && key != "" && len(key) <= dispatch.MaxKeyBytes, "item %q of section %q: %v", key, section, err)
	seq := tx.Add(d.key(tableSeq, section), 1, 0, math.MaxInt64)
	tx.Put(d.key(tableItem, section, key), row.Encode(r, append(fields, row.Bind(1, seq))...))
	return seq
}

// Mark changes nothing. The slot becomes the section's sequence as it is: what left the section before is gone from a target
// whose applied mark is not below.
func Mark(tx *store.Tx, d Doc, section string) store.Slot {
	err := dispatch.ValidateName(section)
	assert.That(err == nil, "section %q: %v", section, err)
	return tx.Add(d.key(tableSeq, section), 0, 0, math.MaxInt64)
}

// Drop removes a document with all its rows: nothing of it is told to anyone. It is for shared documents that no item
// names as topic any more; a target would wait for ever for a topic that is gone.
func Drop(tx *store.Tx, name string) {
	d := Named(name)
	for _, table := range []string{tableSeq, tableItem, tableFloor} {
		p := d.key(table).Base
		tx.DeleteRange(p, store.PrefixEnd(p))
	}
}

// RaiseEpoch makes a target stand down before it goes on: it was declared dead, or joins anew. The slot becomes the
// number of raises.
func RaiseEpoch(tx *store.Tx, target string) store.Slot {
	return tx.Add(Named(target).key(tableEpoch), 1, 0, math.MaxInt64)
}

// Item is an item as read from its row.
type Item struct {
	dispatch.Item
	Topics []string
}

// DecodeItem reads an item's row.
func DecodeItem(key string, value store.Value) (Item, error) {
	r, err := row.Decode[itemRow](value.Bytes)
	if err != nil {
		return Item{}, fmt.Errorf("decode item %q: %w", key, err)
	}
	return Item{Item: dispatch.Item{Key: key, Rev: r.Rev, Payload: r.Payload, Deleted: r.Deleted}, Topics: r.Topics}, nil
}

// Items reads the live items of a section, by key.
func Items(ctx context.Context, r store.Reader, doc, section string) ([]Item, error) {
	p := Named(doc).key(tableItem, section).Base
	var items []Item
	err := Scan(ctx, r, p, func(kv store.KV) error {
		k, err := ParseKey(kv.Key)
		if err != nil {
			return err
		}
		it, err := DecodeItem(k.Item, kv.Value)
		if err == nil && !it.Deleted {
			items = append(items, it)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read items of %s#%s: %w", doc, section, err)
	}
	return items, nil
}

// Seq reads a section's sequence; zero when nothing was ever put.
func Seq(ctx context.Context, r store.Reader, id dispatch.SectionID) (dispatch.Seq, error) {
	v, _, err := r.Get(ctx, Named(id.Doc).key(tableSeq, id.Section).Base)
	return uint64(v.Int), err
}

// Scan visits the rows under a prefix in pages, which bounds what one read returns.
func Scan(ctx context.Context, r store.Reader, prefix []byte, visit func(store.KV) error) error {
	begin, end := prefix, store.PrefixEnd(prefix)
	for {
		page, err := r.Range(ctx, store.RangeOptions{Begin: begin, End: end, Limit: 1000})
		if err != nil {
			return err
		}
		for _, kv := range page {
			if err := visit(kv); err != nil {
				return err
			}
		}
		if len(page) < 1000 {
			return nil
		}
		begin = append(append([]byte(nil), page[len(page)-1].Key...), 0)
	}
}

// Collect removes a tombstone that was read at this revision and raises the section's floor to it. A target that has not
// got so far receives the section in full.
func Collect(ctx context.Context, tx *store.Tx, id dispatch.SectionID, key string, rev dispatch.Rev) error {
	d := Named(id.Doc)
	itemKey := d.key(tableItem, id.Section, key)
	v, found, err := tx.Get(ctx, itemKey.Base)
	if err != nil || !found {
		return err
	}
	it, err := DecodeItem(key, v)
	if err != nil || !it.Deleted || it.Rev != rev {
		return err
	}
	tx.Delete(itemKey)
	tx.Max(d.key(tableFloor, id.Section), int64(rev))
	return nil
}
