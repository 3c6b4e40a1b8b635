package client

import (
	"maps"
	"slices"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/session"
)

// Desired is all that a target should be, at one moment. It is never modified.
type Desired struct {
	sinks map[dispatch.SectionID]*session.Sink
	epoch uint64
}

// Epoch is the newest epoch under which this is known to hold all that the server had: a session has answered a
// heartbeat since, and nothing that came before the answer was refused. 0 is none since the process began.
func (d Desired) Epoch() uint64 { return d.epoch }

// View is one section of it.
type View struct {
	// Known tells whether the section was ever received. Absence from an unknown section means nothing.
	Known bool
	// Seq is what ReportApplied is to be called with once all of Items is applied.
	Seq uint64
	// Items are the versions to apply, by key. One that waits for its topics is here in its older version, or not yet.
	Items map[string]dispatch.Item
	// Waiting are the keys of items of which a newer version, or the first, waits for its topics: they are not absent.
	Waiting []string
	// Orphans were desired under another history and are not mentioned in this one: set them aside, end nothing.
	Orphans map[string]dispatch.Item
}

// Section answers a section.
func (d Desired) Section(doc, section string) View {
	k := d.sinks[dispatch.SectionID{Doc: doc, Section: section}]
	if k == nil {
		return View{}
	}
	v := View{Known: true, Seq: k.ShownSeq(), Items: make(map[string]dispatch.Item, len(k.Items)), Orphans: maps.Clone(k.Orphans)}
	for key, h := range k.Items {
		if h.Shown != nil {
			v.Items[key] = *h.Shown
		}
		if h.Pending != nil {
			v.Waiting = append(v.Waiting, key)
		}
	}
	slices.Sort(v.Waiting)
	return v
}

// Sections lists the sections held of a document.
func (d Desired) Sections(doc string) []string {
	var out []string
	for id := range d.sinks {
		if id.Doc == doc {
			out = append(out, id.Section)
		}
	}
	slices.Sort(out)
	return out
}

// Docs lists the documents held.
func (d Desired) Docs() []string {
	docs := map[string]bool{}
	for id := range d.sinks {
		docs[id.Doc] = true
	}
	return slices.Sorted(maps.Keys(docs))
}
