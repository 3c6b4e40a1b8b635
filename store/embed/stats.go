package embed

import (
	"math/bits"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/store"
)

// statKeys bounds the keys that are counted one by one; the others are counted together under "".
const statKeys = 256

// Stats counts since the engine was opened.
type Stats struct {
	Commits, Conflicts, GuardFailures, Refused uint64
	// ConflictKeys and GuardKeys count by whole key, at most statKeys of them; the rest is under "".
	ConflictKeys, GuardKeys map[string]uint64
	// Batches counts group commits, BatchCommits the commits in them.
	Batches, BatchCommits uint64
	// SyncMicros counts batches by the time from apply to durable: element i those under 2^i microseconds.
	SyncMicros [32]uint64
	// SyncTotal is the sum of those times.
	SyncTotal time.Duration
	// HotKeys estimates the writes of the keys that are written most, by whole key: one commit of hotSample is counted,
	// and what a forgotten key had is added to the key that took its place.
	HotKeys map[string]uint64
	// Durable is the newest durable version, Floor the oldest that can be read.
	Durable, Floor store.Version
	// HistoryBytes is the size of the rows written above the floor.
	HistoryBytes uint64
	// Waiting counts commits that the transactor has not taken.
	Waiting int
	// DiskBytes is what the directory takes, of which LogBytes are the engine's log; MemTableBytes and CacheBytes are in
	// memory.
	DiskBytes, LogBytes, MemTableBytes, CacheBytes uint64
}

// hotSample is how many commits there are for one whose keys are counted.
const hotSample = 16

type stats struct {
	mu sync.Mutex
	s  Stats // mu
}

// Stats returns a copy of the counts.
func (e *Engine) Stats() Stats {
	e.stats.mu.Lock()
	s := e.stats.s
	s.ConflictKeys = copied(s.ConflictKeys)
	s.GuardKeys = copied(s.GuardKeys)
	s.HotKeys = copied(s.HotKeys)
	e.stats.mu.Unlock()
	var written, collected uint64
	s.Durable, written = e.durable.size()
	s.Floor, collected = e.state.Collected()
	s.HistoryBytes = written - min(written, collected)
	s.Waiting = e.queue.len()
	e.sizes(&s)
	return s
}

// sizes asks Pebble, unless the engine is closed.
func (e *Engine) sizes(s *Stats) {
	if e.leases.begin() != nil {
		return
	}
	defer e.leases.reads.Done()
	m := e.state.Metrics()
	s.DiskBytes, s.LogBytes = m.DiskSpaceUsage(), m.WAL.PhysicalSize
	s.MemTableBytes, s.CacheBytes = m.MemTable.Size, uint64(max(0, m.BlockCache.Size))
}

func copied(m map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(m))
	for key, n := range m {
		out[key] = n
	}
	return out
}

func (s *stats) synced(commits int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Batches++
	s.s.BatchCommits += uint64(commits)
	s.s.SyncTotal += took
	s.s.SyncMicros[min(bits.Len64(uint64(took.Microseconds())), len(s.s.SyncMicros)-1)]++
}

// wrote counts the keys of a sample of transactions.
func (s *stats) wrote(committed []store.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range committed {
		if b.Version%hotSample != 0 {
			continue
		}
		for _, c := range b.Changes {
			s.hot(string(c.Key))
		}
	}
}

// hot counts a key among the most frequent (Metwally, Agrawal and El Abbadi, 2005: "space saving"). s.mu is held.
func (s *stats) hot(key string) {
	if s.s.HotKeys == nil {
		s.s.HotKeys = map[string]uint64{}
	}
	m := s.s.HotKeys
	if _, known := m[key]; known || len(m) < statKeys {
		m[key] += hotSample
		return
	}
	least, count := "", ^uint64(0)
	for k, n := range m {
		if n < count {
			least, count = k, n
		}
	}
	delete(m, least)
	m[key] = count + hotSample
}

func (s *stats) answered(a *store.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a.Outcome {
	case store.OutcomeCommitted:
		s.s.Commits++
	case store.OutcomeConflict:
		s.s.Conflicts++
		count(&s.s.ConflictKeys, a.Key)
	case store.OutcomeGuardFailed:
		s.s.GuardFailures++
		count(&s.s.GuardKeys, a.Failure.Key)
	case store.OutcomeRefused:
		s.s.Refused++
	}
}

func count(m *map[string]uint64, key []byte) {
	if *m == nil {
		*m = map[string]uint64{}
	}
	if _, known := (*m)[string(key)]; !known && len(*m) >= statKeys {
		key = nil
	}
	(*m)[string(key)]++
}
