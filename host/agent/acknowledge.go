package agent

import (
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// inProgress is the reason given for an item that is neither applied nor given up.
const inProgress = "in progress"

// ack is what was said of a section.
type ack struct {
	seq    uint64
	failed []dispatch.Failure
}

func (a ack) same(b ack) bool { return a.seq == b.seq && slices.Equal(a.failed, b.failed) }

// aim is what a snapshot wants of one guest. Equal aims want the same: a guest that is settled on one stays settled when
// a newer snapshot changes other guests only.
type aim struct {
	known, present, unsure, orphan bool
	item                           dispatch.Checksum
}

func (s *snapshot) aim(id ids.Instance) aim {
	item, present := s.instances[id]
	return aim{known: s.known, present: present, unsure: !present && s.unsure[id], orphan: !present && s.orphans[id], item: item.digest}
}

// acknowledge reports how far each section is applied. The host's own sections are acknowledged item by item: a guest
// that is on its way, or that failed for good, is named as failed with its interfaces, and holds nobody else's
// acknowledgement. So what an acknowledgement covers and does not name is free: the guest is gone and its ports are
// closed. A section that would have to name more than an acknowledgement may hold keeps its last one.
func (a *agent) acknowledge() {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.desired
	if s == nil || a.o.Network != nil && a.network < s.number {
		return
	}
	own, complete := a.unapplied(s)
	for id, seq := range s.seqs {
		said := ack{seq: seq}
		if id.Doc == host.DocHost(a.o.ID) {
			said.failed = own[id.Section]
			if len(said.failed) > dispatch.MaxFailures || !complete && id.Section == host.SectionInterfaces {
				continue
			}
		}
		if last, found := a.acks[id]; found && last.same(said) {
			continue
		}
		a.acks[id] = said
		a.link.ReportApplied(id.Doc, id.Section, seq, said.failed)
	}
}

// unapplied lists, by section of the host's document, what of s is not applied. It is incomplete for interfaces while a
// directory has not been looked at: its ports are not known. The caller holds a.mu.
func (a *agent) unapplied(s *snapshot) (failed map[string][]dispatch.Failure, complete bool) {
	failed, complete = map[string][]dispatch.Failure{}, true
	for section, f := range s.failures {
		failed[section] = slices.Clone(f)
	}
	add := func(section, key string, rev uint64, w *worker, settled bool) {
		f := dispatch.Failure{Key: key, Rev: rev, Reason: w.failure}
		if !settled {
			f.Reason, f.Retryable = inProgress, true
		}
		failed[section] = append(failed[section], f)
	}
	doc := host.DocHost(a.o.ID)
	for id, w := range a.workers {
		complete = complete && !w.adopting
		settled := w.settled && w.aim == s.aim(id)
		if settled && w.failure == "" {
			continue
		}
		rev := s.seqs[dispatch.SectionID{Doc: doc, Section: host.SectionInstances}] // an absent item's end is no later
		if item, found := s.instances[id]; found {
			rev = item.rev
		}
		add(host.SectionInstances, string(id), rev, w, settled)
		for _, in := range w.ports {
			add(host.SectionInterfaces, string(in), s.seqs[dispatch.SectionID{Doc: doc, Section: host.SectionInterfaces}], w, settled)
		}
	}
	for _, f := range failed {
		slices.SortFunc(f, func(a, b dispatch.Failure) int { return strings.Compare(a.Key, b.Key) })
	}
	return failed, complete
}
