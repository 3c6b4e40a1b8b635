package core

import (
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/store"
)

// Outbox holds answers until the state that they saw is durable. Not safe for concurrent use.
type Outbox struct {
	durable Mark
	pending []*Batch // in order; each on the one before, the first on durable
}

// Released is a batch whose answers may leave, in the order of its inputs.
type Released struct {
	Batch   *Batch
	Answers []*store.Answer
}

// NewOutbox returns an empty outbox for a log that ends at a mark, where all of it is durable.
func NewOutbox(last Mark) *Outbox { return &Outbox{durable: last} }

// Version is the newest durable version: what readers may see.
func (o *Outbox) Version() store.Version { return o.durable.Version }

// Add takes over the next batch. It returns the batch at once when that holds nothing to wait for: it is empty, and what
// its answers saw is durable.
func (o *Outbox) Add(b *Batch) []Released {
	assert.That(b.Base == o.newest(), "batch %v is based on %v, the newest is %v", b.At, b.Base, o.newest())
	o.pending = append(o.pending, b)
	return o.release(o.durable.At)
}

func (o *Outbox) newest() Position {
	if n := len(o.pending); n > 0 {
		return o.pending[n-1].At
	}
	return o.durable.At
}

// Durable says that the log is durable up to a batch, and releases what waited for that.
func (o *Outbox) Durable(at Position) []Released { return o.release(at) }

func (o *Outbox) release(at Position) []Released {
	n := len(o.pending)
	for n > 0 && o.pending[n-1].At != at {
		n--
	}
	out := make([]Released, n)
	for i, b := range o.pending[:n] {
		out[i] = Released{Batch: b, Answers: b.answers}
		o.durable = Mark{At: b.At, Version: b.Version, TimeMs: b.TimeMs}
	}
	o.pending = o.pending[n:]
	return out
}

// Lost says that a batch and all after it will never be durable. It returns them; the outcome of their commits is unknown
// to those who sent them, also of those that wrote nothing: what they saw may not have been.
func (o *Outbox) Lost(from Position) []*Batch {
	n := 0
	for n < len(o.pending) && o.pending[n].At != from {
		n++
	}
	lost := o.pending[n:]
	o.pending = o.pending[:n:n]
	return lost
}
