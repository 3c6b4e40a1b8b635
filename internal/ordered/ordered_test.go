package ordered

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func all(m *Map[int], after string) (keys []string) {
	c := m.After(after)
	for key, _, ok := c.Next(); ok; key, _, ok = c.Next() {
		keys = append(keys, key)
	}
	return keys
}

// TestModel compares a Map with a map that is sorted at each look.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		m, model := &Map[int]{}, map[string]int{}
		for step := range 4000 {
			key := fmt.Sprintf("%04d", r.IntN(1500))
			if r.IntN(5) < 2 {
				m.Delete(key)
				delete(model, key)
			} else {
				m.Put(key, step)
				model[key] = step
			}
		}
		want := slices.Sorted(maps.Keys(model))
		if got := all(m, ""); !slices.Equal(got, want) || m.Len() != len(want) {
			t.Fatalf("seed %d: %d keys, want %d", seed, len(got), len(want))
		}
		after := fmt.Sprintf("%04d", r.IntN(1500))
		i, found := slices.BinarySearch(want, after)
		if found {
			i++
		}
		if got := all(m, after); !slices.Equal(got, want[i:]) {
			t.Fatalf("seed %d: after %s: %v, want %v", seed, after, got, want[i:])
		}
		for c, n := m.After(""), 0; n < len(want); n++ {
			if key, value, ok := c.Next(); !ok || model[key] != value {
				t.Fatalf("seed %d: %s has %d, want %d", seed, key, value, model[key])
			}
		}
		for _, b := range m.blocks {
			if len(b) == 0 || len(b) > blockEntries {
				t.Fatalf("seed %d: a block of %d", seed, len(b))
			}
		}
	}
}

func TestMerge(t *testing.T) {
	a, b := &Map[int]{}, &Map[int]{}
	for i := range 1000 {
		if i%2 == 0 {
			a.Put(fmt.Sprintf("%04d", i), i)
		}
		if i%3 == 0 {
			b.Put(fmt.Sprintf("%04d", i), i)
		}
	}
	if got := Merge([]*Map[int]{a, nil, b}, "0004", 5); !slices.Equal(got, []int{6, 8, 9, 10, 12}) {
		t.Errorf("got %v", got)
	}
	if got := Merge([]*Map[int]{a, b}, "", 10_000); len(got) != 667 {
		t.Errorf("%d of both", len(got))
	}
	if got := Merge([]*Map[int]{b, a}, "0997", 10); !slices.Equal(got, []int{998, 999}) {
		t.Errorf("got %v", got)
	}
}

// TestRisingKeysFillBlocks holds what keeps a view's memory small: rows come in order of creation.
func TestRisingKeysFillBlocks(t *testing.T) {
	m := &Map[int]{}
	for i := range 10 * blockEntries {
		m.Put(fmt.Sprintf("%06d", i), i)
	}
	if len(m.blocks) != 10 {
		t.Errorf("%d blocks for %d keys", len(m.blocks), m.Len())
	}
}
