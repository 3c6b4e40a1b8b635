package session

import (
	"slices"

	"github.com/nimbrel/nimbrel/dispatch"
)

// Entry is an item with the documents it needs, as its writer committed it.
type Entry struct {
	dispatch.Item
	Topics []string
}

// Source is the sending side of one section: the latest state of each item, tombstones included.
type Source struct {
	seq   dispatch.Seq
	floor dispatch.Seq // tombstones up to here may be gone: a reader below it needs the full section
	items map[string]*Entry
	order []mark // by revision; entries whose item has moved on are stale and are swept in time
	sum   dispatch.Checksum
	dead  int // tombstones in items
}

type mark struct {
	rev dispatch.Rev
	key string
}

// NewSource makes an empty section at sequence zero.
func NewSource() *Source { return &Source{items: map[string]*Entry{}} }

// Seq is the section's sequence: the revision of its last change, or what Advance said.
func (s *Source) Seq() dispatch.Seq { return s.seq }

// Sum is the checksum over the live items.
func (s *Source) Sum() dispatch.Checksum { return s.sum }

// Live counts the items that are not tombstones.
func (s *Source) Live() int { return len(s.items) - s.dead }

// Get finds an item; tombstones are found too.
func (s *Source) Get(key string) (Entry, bool) {
	e, ok := s.items[key]
	if !ok {
		return Entry{}, false
	}
	return *e, true
}

// Each visits all items in no order, tombstones included, until visit answers false.
func (s *Source) Each(visit func(*Entry) bool) {
	for _, e := range s.items {
		if !visit(e) {
			return
		}
	}
}

// Put takes a newer revision of an item; it answers false for one that is not newer.
func (s *Source) Put(e Entry) bool {
	old := s.items[e.Key]
	if old != nil && old.Rev >= e.Rev {
		return false
	}
	if old != nil {
		s.sum = s.sum.Sub(old.Digest())
		s.dead -= count(old.Deleted)
	}
	s.sum = s.sum.Add(e.Digest())
	s.dead += count(e.Deleted)
	s.items[e.Key] = &e
	s.seq = max(s.seq, e.Rev)
	s.insert(mark{e.Rev, e.Key})
	return true
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// insert keeps the order; new marks come almost in order, since revisions do.
func (s *Source) insert(m mark) {
	at := len(s.order)
	for at > 0 && s.order[at-1].rev > m.rev {
		at--
	}
	s.order = slices.Insert(s.order, at, m)
	if len(s.order) > 2*len(s.items)+64 {
		s.order = slices.DeleteFunc(s.order, func(m mark) bool { e := s.items[m.key]; return e == nil || e.Rev != m.rev })
	}
}

// Advance raises the sequence without a change, as when the last change's item has been collected.
func (s *Source) Advance(seq dispatch.Seq) { s.seq = max(s.seq, seq) }

// SetFloor tells that tombstones up to floor may be missing.
func (s *Source) SetFloor(floor dispatch.Seq) {
	s.floor = max(s.floor, floor)
	s.seq = max(s.seq, floor)
}

// Collect forgets the tombstone of a key. A live item stays.
func (s *Source) Collect(key string) {
	if e := s.items[key]; e != nil && e.Deleted {
		delete(s.items, key)
		s.dead--
	}
}

// Remove forgets an item whatever it is: its row is gone, with its whole document.
func (s *Source) Remove(key string) {
	if e := s.items[key]; e != nil {
		s.sum = s.sum.Sub(e.Digest())
		s.dead -= count(e.Deleted)
		delete(s.items, key)
	}
}

// Tombstones lists the tombstones by revision.
func (s *Source) Tombstones() []*Entry {
	var dead []*Entry
	for _, m := range s.order {
		if s.dead == len(dead) {
			break
		}
		if e := s.items[m.key]; e != nil && e.Rev == m.rev && e.Deleted {
			dead = append(dead, e)
		}
	}
	return dead
}

// Since lists what changed after from, in order of revision. It answers all live items and every tombstone still known,
// with full set, when a reader at from could have missed a tombstone.
func (s *Source) Since(from dispatch.Seq) (entries []*Entry, full bool) {
	if from < s.floor || from == 0 {
		from, full = 0, true
	}
	at, _ := slices.BinarySearchFunc(s.order, from+1, func(m mark, rev dispatch.Rev) int {
		if m.rev < rev {
			return -1
		}
		return count(m.rev > rev)
	})
	for _, m := range s.order[at:] {
		if e := s.items[m.key]; e != nil && e.Rev == m.rev {
			entries = append(entries, e)
		}
	}
	return entries, full
}

// Deltas makes the messages that bring a reader from a sequence to this section's, in parts of about
// dispatch.PartBytes. needs may be nil.
func (s *Source) Deltas(id dispatch.SectionID, from dispatch.Seq, full bool, needs func(topics []string) []dispatch.Need) []Message {
	if full {
		from = 0
	}
	entries, full := s.Since(from)
	if full {
		from = 0
	}
	var out []Message
	part := &Delta{ID: id, From: from, To: s.seq, Full: full, Sum: s.sum}
	size := 0
	for _, e := range entries {
		item := e.Item
		if needs != nil && !item.Deleted && len(e.Topics) > 0 {
			item.Needs = needs(e.Topics)
		}
		if n := itemBytes(&item); size+n > dispatch.PartBytes && len(part.Items) > 0 {
			part.More = true
			out = append(out, part)
			part = &Delta{ID: id, From: from, To: s.seq, Full: full, Sum: s.sum, Part: part.Part + 1}
			size = n
		} else {
			size += n
		}
		part.Items = append(part.Items, item)
	}
	return append(out, part)
}

// itemBytes is an upper guess of an item's encoded size.
func itemBytes(it *dispatch.Item) int {
	n := len(it.Key) + len(it.Payload) + 32
	for i := range it.Needs {
		n += len(it.Needs[i].Doc) + 8
		for _, s := range it.Needs[i].Sections {
			n += len(s.Section) + 16
		}
	}
	return n
}

// collectUpTo forgets the tombstones up to a sequence; a reader below it gets the section in full.
func (s *Source) collectUpTo(seq dispatch.Seq) {
	for _, e := range s.Tombstones() {
		if e.Rev <= seq {
			s.Collect(e.Key)
			s.SetFloor(e.Rev)
		}
	}
}
