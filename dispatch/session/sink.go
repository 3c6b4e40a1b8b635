package session

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"github.com/nimbrel/nimbrel/dispatch"
)

// Held is what a receiver has of one item.
type Held struct {
	Shown   *dispatch.Item // the version that its reader sees; nil before the first could be shown
	Pending *dispatch.Item // a newer version whose needs are not met yet
}

// Latest is the newest version received.
func (h Held) Latest() *dispatch.Item {
	if h.Pending != nil {
		return h.Pending
	}
	return h.Shown
}

// Sink is the receiving side of one section. Sinks are values to their owner: Apply and Promote answer a changed copy, so
// that the last good version stands until the new one is durable.
type Sink struct {
	ID      dispatch.SectionID
	History string // under which Seq counts
	Seq     dispatch.Seq
	Items   map[string]Held
	Orphans map[string]dispatch.Item // held under another history, absent in this one, never ended by a tombstone

	sum     dispatch.Checksum
	size    int // payload bytes, each version counted
	pending int
}

// NewSink makes a section of which nothing was received.
func NewSink(id dispatch.SectionID, history string) *Sink {
	return &Sink{ID: id, History: history, Items: map[string]Held{}, Orphans: map[string]dispatch.Item{}}
}

// Sum is the checksum of the latest versions, kept along with each change.
func (k *Sink) Sum() dispatch.Checksum { return k.sum }

// Pending counts the items that wait for their needs.
func (k *Sink) Pending() int { return k.pending }

// Recount computes the checksum from the bytes held, as a heartbeat does: a defect in keeping it, or in memory, shows.
func (k *Sink) Recount() dispatch.Checksum {
	var sum dispatch.Checksum
	for _, h := range k.Items {
		sum = sum.Add(h.Latest().Digest())
	}
	return sum
}

// Load takes an item as read from disk.
func (k *Sink) Load(key string, h Held) { k.set(key, h) }

// ShownSeq is the sequence up to which everything is shown: Seq, or just before the oldest item that waits.
func (k *Sink) ShownSeq() dispatch.Seq {
	seq := k.Seq
	if k.pending == 0 {
		return seq
	}
	for _, h := range k.Items {
		if h.Pending != nil {
			seq = min(seq, h.Pending.Rev-1)
		}
	}
	return seq
}

func (k *Sink) set(key string, h Held) {
	old := k.Items[key]
	k.account(old, -1)
	k.account(h, 1)
	if h.Latest() == nil {
		delete(k.Items, key)
		return
	}
	k.Items[key] = h
}

func (k *Sink) account(h Held, sign int) {
	latest := h.Latest()
	if latest == nil {
		return
	}
	if sign > 0 {
		k.sum = k.sum.Add(latest.Digest())
	} else {
		k.sum = k.sum.Sub(latest.Digest())
	}
	for _, it := range []*dispatch.Item{h.Shown, h.Pending} {
		if it != nil {
			k.size += sign * len(it.Payload)
		}
	}
	if h.Pending != nil {
		k.pending += sign
	}
}

func (k *Sink) clone() *Sink {
	c := *k
	c.Items, c.Orphans = maps.Clone(k.Items), maps.Clone(k.Orphans)
	return &c
}

// Errors of Apply; both want the section in full.
var (
	errGap      = errors.New("delta begins after what is held")
	errChecksum = errors.New("checksum differs after delta")
	errBound    = errors.New("section over its bound")
)

// Apply answers the section with an assembled delta in it. It answers k itself for a delta that brings nothing new. An
// item already held at the same or a newer revision is left alone.
func (k *Sink) Apply(d *Delta, history string) (*Sink, error) {
	known := k.Seq
	if k.History != history {
		known = 0 // sequences of two pasts do not compare
	}
	if !d.Full && d.From > known {
		return nil, fmt.Errorf("apply %v from %d to %d on %d: %w", d.ID, d.From, d.To, known, errGap)
	}
	if d.To < known || (d.To == known && !d.Full) {
		return k, nil
	}
	next := k.clone()
	if d.Full {
		next.dropMissing(d, history)
	}
	for i := range d.Items {
		next.take(&d.Items[i], k.History != history, d.Full)
	}
	next.Seq, next.History = d.To, history
	if next.sum != d.Sum {
		return nil, fmt.Errorf("apply %v from %d to %d: %w: got %v, want %v", d.ID, d.From, d.To, errChecksum, next.sum, d.Sum)
	}
	if len(next.Items) > dispatch.MaxSectionItems || next.size > 2*dispatch.MaxSectionBytes {
		return nil, fmt.Errorf("apply %v: %w: %d items, %d bytes", d.ID, errBound, len(next.Items), next.size)
	}
	return next, nil
}

// dropMissing takes out what a full section does not mention: deleted in the same history, orphaned in another.
func (k *Sink) dropMissing(d *Delta, history string) {
	present := make(map[string]bool, len(d.Items))
	for i := range d.Items {
		present[d.Items[i].Key] = true
	}
	for key, h := range k.Items {
		if present[key] {
			continue
		}
		if k.History != history && k.History != "" && h.Shown != nil {
			k.Orphans[key] = *h.Shown
		}
		k.set(key, Held{})
	}
}

// take applies one item. Under another history, and in a full section, the sender's version counts whatever its
// revision; otherwise only a newer one does. The same bytes again leave an item as it is shown.
func (k *Sink) take(it *dispatch.Item, otherHistory, full bool) {
	old := k.Items[it.Key]
	delete(k.Orphans, it.Key)
	if latest := old.Latest(); latest != nil && !otherHistory {
		same := latest.Rev == it.Rev && !it.Deleted && bytes.Equal(latest.Payload, it.Payload)
		if same && latest == old.Shown || latest.Rev >= it.Rev && !full {
			return
		}
	}
	if it.Deleted {
		k.set(it.Key, Held{})
		return
	}
	k.set(it.Key, Held{Shown: old.Shown, Pending: it})
}

// Promote answers the section with each waiting item shown whose needs are met, and k itself when there is none.
func (k *Sink) Promote(met func([]dispatch.Need) bool) *Sink {
	if k.pending == 0 {
		return k
	}
	next := k
	for key, h := range k.Items {
		if h.Pending == nil || !met(h.Pending.Needs) {
			continue
		}
		if next == k {
			next = k.clone()
		}
		next.set(key, Held{Shown: h.Pending})
	}
	return next
}

// assembly joins the parts of a delta.
type assembly struct {
	delta Delta
	next  uint32
	bytes int
}

// add answers the whole delta with its last part, and nil before.
func (a *assembly) add(d *Delta) (*Delta, error) {
	if d.Part == 0 {
		*a = assembly{delta: *d}
		a.delta.Items = nil
	} else if d.Part != a.next || d.To != a.delta.To || d.From != a.delta.From || d.Full != a.delta.Full || d.Sum != a.delta.Sum {
		return nil, fmt.Errorf("assemble %v: part %d of another delta, expected %d", d.ID, d.Part, a.next)
	}
	for i := range d.Items {
		a.bytes += len(d.Items[i].Payload)
	}
	a.delta.Items = append(a.delta.Items, d.Items...)
	if a.bytes > dispatch.MaxSectionBytes || len(a.delta.Items) > dispatch.MaxSectionItems {
		return nil, fmt.Errorf("assemble %v: %w: %d items, %d bytes", d.ID, errBound, len(a.delta.Items), a.bytes)
	}
	a.next = d.Part + 1
	if d.More {
		return nil, nil
	}
	whole := a.delta
	whole.More = false
	*a = assembly{}
	return &whole, nil
}
