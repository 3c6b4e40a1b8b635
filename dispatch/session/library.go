package session

import (
	"maps"
	"slices"

	"github.com/nimbrel/nimbrel/dispatch"
)

// Library holds the documents that a server's sessions read. It must stand at one store version at a time: whole
// transactions go in between two calls of any session.
type Library struct {
	docs map[string]map[string]*Source
}

// NewLibrary makes an empty one.
func NewLibrary() *Library { return &Library{docs: map[string]map[string]*Source{}} }

// Section finds a section; nil when it never had an item.
func (l *Library) Section(id dispatch.SectionID) *Source { return l.docs[id.Doc][id.Section] }

// Ensure finds or makes a section.
func (l *Library) Ensure(id dispatch.SectionID) *Source {
	sections := l.docs[id.Doc]
	if sections == nil {
		sections = map[string]*Source{}
		l.docs[id.Doc] = sections
	}
	if sections[id.Section] == nil {
		sections[id.Section] = NewSource()
	}
	return sections[id.Section]
}

// Sections lists a document's sections by name.
func (l *Library) Sections(doc string) []string { return slices.Sorted(maps.Keys(l.docs[doc])) }

// Docs lists the documents by name.
func (l *Library) Docs() []string { return slices.Sorted(maps.Keys(l.docs)) }

// Drop forgets a section, with its document when it was the last.
func (l *Library) Drop(id dispatch.SectionID) {
	delete(l.docs[id.Doc], id.Section)
	if len(l.docs[id.Doc]) == 0 {
		delete(l.docs, id.Doc)
	}
}

// Needs says how new each topic is now. The library holds whole transactions, so this is at least as new as any item in
// it: a receiver that has as much of every topic has what the item's own commit had.
func (l *Library) Needs(topics []string) []dispatch.Need {
	needs := make([]dispatch.Need, 0, len(topics))
	for _, doc := range topics {
		need := dispatch.Need{Doc: doc}
		for _, name := range l.Sections(doc) {
			need.Sections = append(need.Sections, dispatch.SectionSeq{Section: name, Seq: l.docs[doc][name].Seq()})
		}
		needs = append(needs, need)
	}
	return needs
}

// topics is the union of the topics of a document's live items.
func (l *Library) topics(doc string) map[string]bool {
	all := map[string]bool{}
	for _, s := range l.docs[doc] {
		s.Each(func(e *Entry) bool {
			if !e.Deleted {
				for _, t := range e.Topics {
					all[t] = true
				}
			}
			return true
		})
	}
	return all
}

// version changes whenever a section of the document does.
func (l *Library) version(doc string) uint64 {
	v := uint64(len(l.docs[doc]))
	for _, s := range l.docs[doc] {
		v += s.Seq()
	}
	return v
}
