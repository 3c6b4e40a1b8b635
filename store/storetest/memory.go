// Package storetest holds the store's model engine and the conformance suite that every engine passes.
//
// Memory keeps every version of every row in plain maps and evaluates commits with the same core as the real engine:
// tests of other parts use it as their store, on any system. RunConformance checks an engine against the contract.
//
// Deliberately absent: durability. Start with NewMemory and RunConformance.
package storetest

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// Memory is an Engine in memory with full semantics. Safe for concurrent use.
type Memory struct {
	env     env.Env
	history store.HistoryID

	mu       sync.Mutex
	closed   bool
	version  store.Version
	floor    store.Version // of the feed: later batches are kept
	nowMs    int64
	rows     map[string][]revision // oldest first
	keys     []string              // of rows, sorted
	batches  []store.Batch         // version floor+1 first
	sessions transactor.Sessions
	advanced chan struct{} // closed and replaced at each commit
}

type revision struct {
	version store.Version
	deleted bool
	value   store.Value
}

var _ store.Engine = (*Memory)(nil)

// NewMemory returns an empty store. It needs no Close.
func NewMemory() store.Engine { return NewMemoryWith(env.System()) }

// NewMemoryWith returns an empty store with the given clock and randomness.
func NewMemoryWith(e env.Env) *Memory {
	m := &Memory{env: e, rows: map[string][]revision{}, advanced: make(chan struct{})}
	copy(m.history[:], "memory")
	return m
}

// Snapshot returns the state of the last commit. Versions that do not exist yet are waited for.
func (m *Memory) Snapshot(ctx context.Context, atLeast store.Version) (store.Snapshot, error) {
	for {
		m.mu.Lock()
		version, closed, advanced := m.version, m.closed, m.advanced
		m.mu.Unlock()
		switch {
		case closed:
			return nil, store.ErrClosed
		case version >= atLeast:
			return &memorySnapshot{m: m, version: version}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-advanced:
		}
	}
}

// Commit evaluates and applies a commit at once.
func (m *Memory) Commit(ctx context.Context, c *store.Commit) (*store.Answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	digest, err := transactor.Digest(c)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, store.ErrClosed
	}
	m.nowMs = max(m.nowMs, m.env.Clock.Now().UnixMilli())
	m.sessions.Expire(m.nowMs)
	effect, err := transactor.Evaluate(memoryView{m}, &m.sessions, transactor.Input{
		Commit: c, History: m.history, Digest: digest, NowMs: m.nowMs, Next: m.version + 1, MaxBytes: store.MaxTransactionBytes,
	})
	if err != nil {
		return nil, err
	}
	m.apply(effect)
	return effect.Answer, nil
}

func (m *Memory) apply(e transactor.Effect) {
	if e.Record == nil {
		return
	}
	m.sessions.Keep(*e.Record)
	if e.Answer.Outcome != store.OutcomeCommitted {
		return
	}
	m.version = e.Answer.Version
	b := store.Batch{History: m.history, Version: m.version}
	for _, w := range e.Writes {
		key := string(w.Key)
		if _, ok := m.rows[key]; !ok {
			at, _ := slices.BinarySearch(m.keys, key)
			m.keys = slices.Insert(m.keys, at, key)
		}
		w.Value.Bytes = slices.Clone(w.Value.Bytes)
		m.rows[key] = append(m.rows[key], revision{version: m.version, deleted: w.Deleted, value: w.Value})
		b.Changes = append(b.Changes, store.Change{Key: []byte(key), Value: w.Value, Deleted: w.Deleted, Version: m.version})
	}
	m.batches = append(m.batches, b)
	close(m.advanced)
	m.advanced = make(chan struct{})
}

// Compact forgets the transactions up to a version, so that feeds from before it get ErrCompacted. Rows and snapshots
// are kept.
func (m *Memory) Compact(upTo store.Version) {
	m.mu.Lock()
	defer m.mu.Unlock()
	upTo = min(upTo, m.version)
	if upTo > m.floor {
		m.batches = m.batches[upTo-m.floor:]
		m.floor = upTo
	}
}

// Watch streams from a version on.
func (m *Memory) Watch(_ context.Context, from store.Version, prefixes ...[]byte) (store.Feed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return nil, store.ErrClosed
	case from > m.version:
		return nil, store.ErrOtherHistory
	case from < m.floor:
		return nil, store.ErrCompacted
	}
	return &memoryFeed{m: m, at: from, told: from, prefixes: prefixes}, nil
}

// Close ends the store; snapshots stay readable.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		close(m.advanced)
	}
	return nil
}

// at returns a row as of a version. m.mu is held.
func (m *Memory) at(key string, version store.Version) transactor.Row {
	revisions := m.rows[key]
	i := sort.Search(len(revisions), func(i int) bool { return revisions[i].version > version })
	if i == 0 || revisions[i-1].deleted {
		return transactor.Row{}
	}
	r := revisions[i-1]
	return transactor.Row{Value: r.value, Version: r.version, Found: true}
}

// between returns the keys in [begin, end); a nil end has no bound. m.mu is held.
func (m *Memory) between(begin, end []byte) []string {
	from, _ := slices.BinarySearch(m.keys, string(begin))
	to := len(m.keys)
	if end != nil {
		to, _ = slices.BinarySearch(m.keys, string(end))
	}
	return m.keys[from:max(from, to)]
}

// memoryView is the latest state; m.mu is held.
type memoryView struct{ m *Memory }

func (v memoryView) Get(key []byte) (transactor.Row, error) {
	return v.m.at(string(key), v.m.version), nil
}

func (v memoryView) Keys(begin, end []byte, limit int) ([][]byte, error) {
	var keys [][]byte
	for _, key := range v.m.between(begin, end) {
		if len(keys) < limit && v.m.at(key, v.m.version).Found {
			keys = append(keys, []byte(key))
		}
	}
	return keys, nil
}

func (v memoryView) Changed(begin, end []byte, after store.Version) ([]byte, store.Version, error) {
	if end == nil {
		end = append(slices.Clone(begin), 0)
	}
	for _, key := range v.m.between(begin, end) {
		revisions := v.m.rows[key]
		if last := revisions[len(revisions)-1].version; last > after {
			return []byte(key), last, nil
		}
	}
	return nil, 0, nil
}

func (v memoryView) Floor() store.Version { return 0 }

type memorySnapshot struct {
	m       *Memory
	version store.Version
}

func (s *memorySnapshot) History() store.HistoryID { return s.m.history }

func (s *memorySnapshot) Version() store.Version { return s.version }

func (s *memorySnapshot) Release() {}

func (s *memorySnapshot) Get(ctx context.Context, key []byte) (store.Value, store.Version, bool, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	row := s.m.at(string(key), s.version)
	row.Value.Bytes = slices.Clone(row.Value.Bytes)
	return row.Value, row.Version, row.Found, ctx.Err()
}

func (s *memorySnapshot) Range(ctx context.Context, o store.RangeOptions) ([]store.KV, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Limit <= 0 || o.Limit > store.MaxRangeRows {
		o.Limit = store.MaxRangeRows
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	keys := slices.Clone(s.m.between(o.Begin, o.End))
	if o.Reverse {
		slices.Reverse(keys)
	}
	var rows []store.KV
	for _, key := range keys {
		row := s.m.at(key, s.version)
		if row.Found && len(rows) < o.Limit {
			row.Value.Bytes = slices.Clone(row.Value.Bytes)
			rows = append(rows, store.KV{Key: []byte(key), Value: row.Value, Version: row.Version})
		}
	}
	return rows, nil
}

type memoryFeed struct {
	m        *Memory
	at, told store.Version // walked to; told the caller
	prefixes [][]byte

	mu     sync.Mutex
	closed bool // mu
}

func (f *memoryFeed) Next(ctx context.Context) (store.Batch, error) {
	progress := time.NewTimer(store.ProgressInterval)
	defer progress.Stop()
	for {
		b, found, advanced, err := f.poll()
		if found || err != nil {
			return b, err
		}
		select {
		case <-ctx.Done():
			return store.Batch{}, ctx.Err()
		case <-progress.C:
			return f.progress(), nil
		case <-advanced:
		}
	}
}

// poll moves to the next transaction that the feed shows.
func (f *memoryFeed) poll() (b store.Batch, found bool, advanced chan struct{}, err error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.closed || f.isClosed() {
		return b, false, nil, store.ErrClosed
	}
	if f.at < f.m.floor {
		return b, false, nil, store.ErrCompacted
	}
	for f.at < f.m.version {
		b = f.m.batches[f.at-f.m.floor]
		f.at++
		if b.Changes = under(b.Changes, f.prefixes); len(b.Changes) > 0 {
			f.told = f.at
			return b, true, nil, nil
		}
	}
	if f.told < f.at {
		return f.progress(), true, nil, nil
	}
	return b, false, f.m.advanced, nil
}

func (f *memoryFeed) progress() store.Batch {
	f.told = f.at
	return store.Batch{History: f.m.history, Version: f.at, Progress: true}
}

func (f *memoryFeed) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *memoryFeed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// under copies the changes whose keys are under one of the prefixes.
func under(changes []store.Change, prefixes [][]byte) []store.Change {
	var out []store.Change
	for _, c := range changes {
		if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p []byte) bool { return store.HasPrefix(c.Key, p) }) {
			c.Value.Bytes = slices.Clone(c.Value.Bytes)
			out = append(out, c)
		}
	}
	return out
}
