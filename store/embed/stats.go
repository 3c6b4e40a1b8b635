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
	// Durable is the newest durable version, Floor the oldest that can be read.
	Durable, Floor store.Version
}

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
	e.stats.mu.Unlock()
	s.Durable, _, _ = e.durable.now()
	s.Floor = e.state.Floor()
	return s
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
