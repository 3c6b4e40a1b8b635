package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store"
)

func TestMemoryConformance(t *testing.T) { RunConformance(t, NewMemory) }

func TestMemoryCompact(t *testing.T) {
	m := NewMemoryWith(env.System())
	s := newSuite(t, m)
	f := s.watch(0)
	s.must(put(0, key("a"), 1))
	v2 := s.must(put(0, key("a"), 2))
	m.Compact(1)
	if _, err := f.Next(context.Background()); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("feed from before: %v", err)
	}
	if _, err := m.Watch(context.Background(), 0); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from before: %v", err)
	}
	if b := s.nextBatch(s.watch(1)); b.Version != v2 {
		t.Errorf("feed from the floor: %+v", b)
	}
}
