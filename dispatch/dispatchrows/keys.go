package dispatchrows

import (
	"fmt"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Table says what a row is.
type Table uint8

const (
	TableSeq Table = 1 + iota
	TableItem
	TableFloor
	TableEpoch
	TableIdentity
	TableToken
)

// Key is a row's key, taken apart.
type Key struct {
	Table  Table
	ID     dispatch.SectionID // of seq, item and floor
	Item   string             // of item
	Target string             // of epoch and identity
}

// ParseKey takes a key of this package apart.
func ParseKey(key []byte) (Key, error) {
	parts, err := tuple.Decode(key)
	if err != nil {
		return Key{}, fmt.Errorf("decode dispatch key %x: %w", key, err)
	}
	text := make([]string, len(parts))
	for i, p := range parts {
		text[i], _ = p.(string)
	}
	if len(text) < 3 || text[0] != Prefix {
		return Key{}, fmt.Errorf("decode dispatch key %x: not of this table", key)
	}
	switch {
	case text[1] == tableSeq && len(text) == 5:
		return Key{Table: TableSeq, ID: sectionID(text)}, nil
	case text[1] == tableFloor && len(text) == 5:
		return Key{Table: TableFloor, ID: sectionID(text)}, nil
	case text[1] == tableItem && len(text) == 6:
		return Key{Table: TableItem, ID: sectionID(text), Item: text[5]}, nil
	case text[1] == tableEpoch && len(text) == 4:
		return Key{Table: TableEpoch, Target: nameOf(text[2], text[3])}, nil
	case text[1] == tableIdentity && len(text) == 3:
		return Key{Table: TableIdentity, Target: text[2]}, nil
	case text[1] == tableToken && len(text) == 3:
		return Key{Table: TableToken}, nil
	}
	return Key{}, fmt.Errorf("decode dispatch key %x: unknown table %q with %d parts", key, text[1], len(text))
}

func sectionID(text []string) dispatch.SectionID {
	return dispatch.SectionID{Doc: nameOf(text[2], text[3]), Section: text[4]}
}

// Watched is the key prefix that a server follows.
func Watched() []byte { return store.Prefix(Prefix) }
