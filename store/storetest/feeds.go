package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/store"
)

// nextBatch returns the next transaction of a feed, past progress marks.
func (s *suite) nextBatch(f store.Feed) store.Batch {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		b, err := f.Next(ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		if !b.Progress {
			return b
		}
	}
}

func (s *suite) watch(from store.Version, prefixes ...[]byte) store.Feed {
	s.t.Helper()
	f, err := s.e.Watch(s.t.Context(), from, prefixes...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(f.Close)
	return f
}

// testFeed shows whole transactions in order, to feeds from before, between and after them.
func testFeed(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	live := s.watch(0)
	var versions []store.Version
	for i := range 20 {
		versions = append(versions, s.must(put(0, key("a"), int64(i)), put(1, key("b", i), 1)))
	}
	versions = append(versions, s.must(store.Op{Kind: store.OpDelete, Key: store.Key("a")}))
	check := func(f store.Feed, first int) {
		for i := first; i < len(versions); i++ {
			b := s.nextBatch(f)
			if b.Version != versions[i] {
				t.Fatalf("version %d, want %d", b.Version, versions[i])
			}
			last := i == len(versions)-1
			if len(b.Changes) == 0 || string(b.Changes[0].Key) != string(key("a")) || b.Changes[0].Deleted != last ||
				(!last && (len(b.Changes) != 2 || b.Changes[0].Value.Int != int64(i))) {
				t.Fatalf("transaction %d: %+v", i, b)
			}
		}
		mark, err := f.Next(t.Context())
		if err != nil || !mark.Progress || mark.Version != versions[len(versions)-1] || len(mark.Changes) != 0 {
			t.Errorf("mark %+v, %v", mark, err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	hasty := s.watch(0)
	for i := range versions { // what is at hand depends on the engine; none is passed over
		b, err := hasty.Next(ended)
		if errors.Is(err, context.Canceled) {
			b, err = s.nextBatch(hasty), nil
		}
		if err != nil || b.Version != versions[i] || len(b.Changes) == 0 {
			t.Fatalf("transaction %d without waiting: %+v, %v", i, b, err)
		}
	}
	if b, err := hasty.Next(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("at the end without waiting: %+v, %v", b, err)
	}
	check(live, 0)
	check(s.watch(0), 0)
	check(s.watch(versions[6]), 7)
	if _, err := e.Watch(t.Context(), versions[len(versions)-1]+1); !errors.Is(err, store.ErrOtherHistory) {
		t.Errorf("watch from the future: %v", err)
	}
}

func testFeedPrefix(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	f := s.watch(0, key("x"), key("z"))
	s.must(put(0, key("y", 1), 1))
	v2 := s.must(put(0, key("y", 1), 2), put(1, key("x", 1), 2))
	s.must(put(0, key("x\x00", 1), 2), put(1, key("xx"), 2))
	v4 := s.must(put(0, key("z"), 4), put(1, key("x", 2), 4))
	if b := s.nextBatch(f); b.Version != v2 || len(b.Changes) != 1 || string(b.Changes[0].Key) != string(key("x", 1)) {
		t.Errorf("first %+v", b)
	}
	if b := s.nextBatch(f); b.Version != v4 || len(b.Changes) != 2 {
		t.Errorf("second %+v", b)
	}
}

func testFeedStops(t *testing.T, e store.Engine) {
	s := newSuite(t, e)
	f := s.watch(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	f.Close()
	if _, err := f.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
