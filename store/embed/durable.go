package embed

import (
	"sort"
	"sync"

	"github.com/nimbrel/nimbrel/store"
)

// durable is what everybody may see: the newest version on disk, and the newest transactions for feeds.
type durable struct {
	limit int

	mu       sync.Mutex
	closed   bool          // mu
	version  store.Version // mu
	written  uint64        // mu; bytes of rows up to version, see mvcc.Entry
	advanced chan struct{} // mu; closed and replaced when version rises, closed for good at the end
	tail     []store.Batch // mu; consecutive up to version, oldest first; elements are never changed
	bytes    int           // mu; of tail
}

func newDurable(v store.Version, written uint64, limit int) *durable {
	return &durable{limit: limit, version: v, written: written, advanced: make(chan struct{})}
}

// advance makes a version and the transactions up to it visible. It returns what wakes those who wait for a newer
// version: the caller wakes them after those who wait for their own commit, who would else queue behind them.
func (d *durable) advance(v store.Version, written uint64, committed []store.Batch) (wake func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v == d.version {
		return func() {}
	}
	d.version, d.written = v, written
	for _, b := range committed {
		d.bytes += tailBytes(b)
	}
	d.tail = append(d.tail, committed...)
	drop := 0
	for ; d.bytes > d.limit && drop < len(d.tail); drop++ {
		d.bytes -= tailBytes(d.tail[drop])
	}
	if drop > 0 {
		d.tail = append([]store.Batch(nil), d.tail[drop:]...)
		// Cutting an eighth more at a time keeps the copying rare.
		for d.bytes > d.limit-d.limit/8 && len(d.tail) > 0 {
			d.bytes -= tailBytes(d.tail[0])
			d.tail = d.tail[1:]
		}
	}
	before := d.advanced
	d.advanced = make(chan struct{})
	return func() { close(before) }
}

func tailBytes(b store.Batch) int {
	n := 128
	for _, c := range b.Changes {
		n += 128 + len(c.Key) + len(c.Value.Bytes)
	}
	return n
}

// now returns the newest durable version and a channel that closes when there is a newer one.
func (d *durable) now() (v store.Version, advanced <-chan struct{}, closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version, d.advanced, d.closed
}

// size returns the newest durable version and the bytes of rows up to it.
func (d *durable) size() (store.Version, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version, d.written
}

// after returns the transactions after a version. It reports false when they are no longer all in memory.
func (d *durable) after(v store.Version) ([]store.Batch, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v >= d.version {
		return nil, true
	}
	if len(d.tail) == 0 || d.tail[0].Version > v+1 {
		return nil, false
	}
	i := sort.Search(len(d.tail), func(i int) bool { return d.tail[i].Version > v })
	return d.tail[i:len(d.tail):len(d.tail)], true
}

func (d *durable) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	close(d.advanced)
}
