package dispatchrows

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/store"
)

// Invariant is one statement about this part's rows; it converts to the checker's type of the same shape.
type Invariant struct {
	Name string // "part.statement"
	Doc  string // the statement in words
	// Check calls report for each thing that breaks the statement. An error says that it could not be checked.
	Check func(ctx context.Context, r store.Reader, report func(subject, detail string)) error
}

// Invariants returns what must hold of this part's rows.
func Invariants() []Invariant {
	return []Invariant{
		{
			Name:  "dispatch.sequences",
			Doc:   "In each section no two items have one revision, and neither an item nor the collection of tombstones is ahead of the section's sequence.",
			Check: checkSequences,
		},
		{
			Name:  "dispatch.identities",
			Doc:   "Each identity is a key's hash, or empty when revoked.",
			Check: checkIdentities,
		},
	}
}

// sectionCount is what one pass gathers of a section.
type sectionCount struct {
	seq, floor dispatch.Seq
	counted    bool // the sequence row exists
	byRev      map[dispatch.Rev]string
}

func checkSequences(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
	sections := map[dispatch.SectionID]*sectionCount{}
	for _, table := range []string{tableSeq, tableFloor, tableItem} {
		err := Scan(ctx, r, store.Prefix(Prefix, table), func(kv store.KV) error {
			k, err := ParseKey(kv.Key)
			if err != nil {
				return err
			}
			if sections[k.ID] == nil {
				sections[k.ID] = &sectionCount{byRev: map[dispatch.Rev]string{}}
			}
			return sections[k.ID].take(k, kv.Value, report)
		})
		if err != nil {
			return err
		}
	}
	for id, c := range sections {
		c.judge(id, report)
	}
	return nil
}

func (c *sectionCount) take(k Key, v store.Value, report func(subject, detail string)) error {
	switch k.Table {
	case TableSeq:
		c.seq, c.counted = uint64(v.Int), true
	case TableFloor:
		c.floor = uint64(v.Int)
	case TableItem:
		it, err := DecodeItem(k.Item, v)
		if err != nil {
			return err
		}
		if other, taken := c.byRev[it.Rev]; taken {
			report(k.ID.String(), fmt.Sprintf("items %q and %q both have revision %d", other, k.Item, it.Rev))
		}
		c.byRev[it.Rev] = k.Item
	}
	return nil
}

func (c *sectionCount) judge(id dispatch.SectionID, report func(subject, detail string)) {
	if !c.counted {
		report(id.String(), "has rows and no sequence")
	}
	for rev, key := range c.byRev {
		if rev > c.seq || rev == 0 {
			report(id.String(), fmt.Sprintf("item %q has revision %d, the section's sequence is %d", key, rev, c.seq))
		}
	}
	if c.floor > c.seq {
		report(id.String(), fmt.Sprintf("tombstones were collected up to %d, the section's sequence is %d", c.floor, c.seq))
	}
}

func checkIdentities(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
	return Scan(ctx, r, store.Prefix(Prefix, tableIdentity), func(kv store.KV) error {
		k, err := ParseKey(kv.Key)
		if err != nil {
			return err
		}
		id, err := DecodeIdentity(kv.Value)
		if err != nil {
			return err
		}
		if n := len(id.KeyHash); n != 0 && n != sha256.Size {
			report(k.Target, fmt.Sprintf("key hash of %d bytes", n))
		}
		return nil
	})
}
