package ratelimit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// TestBucketGivesItsRate holds burst and rate, exactly, and that a key's use is nothing to another.
func TestBucketGivesItsRate(t *testing.T) {
	b := NewBuckets[string](Rate{PerSecond: 10, Burst: 5}, 10)
	take := func(k string, at time.Duration) (n int, wait time.Duration) {
		for {
			w, ok := b.Take(k, start.Add(at))
			if !ok {
				return n, w
			}
			n++
		}
	}
	for _, step := range []struct {
		at   time.Duration
		want int
	}{{0, 5}, {0, 0}, {50 * time.Millisecond, 0}, {100 * time.Millisecond, 1}, {350 * time.Millisecond, 2}, {time.Hour, 5}} {
		if n, wait := take("a", step.at); n != step.want || wait <= 0 || wait > 100*time.Millisecond {
			t.Errorf("at %v: %d tokens, then a wait of %v; want %d", step.at, n, wait, step.want)
		}
	}
	if n, _ := take("b", time.Hour); n != 5 {
		t.Errorf("%d tokens of another key", n)
	}
	if n, _ := take("a", 0); n != 0 {
		t.Errorf("%d tokens of a clock that went back", n)
	}
}

// TestTimesOutOfOrder holds that no stretch of time is paid for twice when callers come in another order than they read the
// clock in.
func TestTimesOutOfOrder(t *testing.T) {
	b := NewBuckets[string](Rate{PerSecond: 100, Burst: 10}, 10)
	got := 0
	for i := range 1000 { // one second, each millisecond of it seen by two callers of which the first is 50 ms late
		at := start.Add(time.Duration(i) * time.Millisecond)
		for _, now := range []time.Time{at.Add(-50 * time.Millisecond), at} {
			if _, ok := b.Take("a", now); ok {
				got++
			}
		}
	}
	if got < 105 || got > 110 {
		t.Errorf("%d tokens in a second; want the burst of 10 and 100", got)
	}
}

// TestEmptyTakesNothing holds that asking changes no bucket and makes none.
func TestEmptyTakesNothing(t *testing.T) {
	b := NewBuckets[string](Rate{PerSecond: 1, Burst: 1}, 10)
	for range 100 {
		if _, empty := b.Empty("a", start); empty {
			t.Fatal("asking has emptied a bucket")
		}
	}
	if b.Len() != 0 {
		t.Errorf("%d buckets of nobody", b.Len())
	}
	if _, ok := b.Take("a", start); !ok {
		t.Error("no token")
	}
	if wait, empty := b.Empty("a", start.Add(time.Second/4)); !empty || wait != 3*time.Second/4 {
		t.Errorf("empty %v for %v", empty, wait)
	}
	if _, empty := b.Empty("a", start.Add(time.Second)); empty {
		t.Error("empty after it was filled")
	}
}

func TestNoRateNoBound(t *testing.T) {
	b := NewBuckets[int](Rate{}, 1)
	for i := range 1000 {
		if _, ok := b.Take(i, start); !ok || b.Len() != 0 {
			t.Fatal("counts")
		}
	}
}

// TestMemoryIsBounded holds the bound, that full buckets make room, and that keys without room still have a limit.
func TestMemoryIsBounded(t *testing.T) {
	b := NewBuckets[int](Rate{PerSecond: 1, Burst: 2}, 100)
	admitted := 0
	for i := range 1000 {
		if _, ok := b.Take(i, start); ok {
			admitted++
		}
	}
	if b.Len() != 100 || admitted != 102 {
		t.Errorf("%d buckets, %d admitted; want 100, and 2 of the bucket that the others share", b.Len(), admitted)
	}
	later := start.Add(2 * time.Second)
	if _, ok := b.Take(5000, later); !ok || b.Len() != 1 {
		t.Errorf("%d buckets after all were full", b.Len())
	}
}

// TestTurns holds both bounds, the order, and that a key's queue is nothing to another.
func TestTurns(t *testing.T) {
	turns := NewTurns[string](2, 3)
	ctx := t.Context()
	first, _ := turns.Take(ctx, "a")
	second, _ := turns.Take(ctx, "a")
	began := make(chan int)
	var ends [3]func()
	for i := range 3 {
		go func() {
			ends[i], _ = turns.Take(ctx, "a")
			began <- i
		}()
		for _, waiting := turns.Now(); waiting != i+1; _, waiting = turns.Now() {
		}
	}
	if _, err := turns.Take(ctx, "a"); !errors.Is(err, ErrQueueFull) || !turns.Full("a") {
		t.Errorf("a queue of four: %v", err)
	}
	other, err := turns.Take(ctx, "b")
	if err != nil {
		t.Errorf("another key: %v", err)
	}
	other()
	for i, end := range []func(){first, second} {
		end()
		if got := <-began; got != i {
			t.Errorf("turn of %d, want %d", got, i)
		}
	}
	ends[0]()
	<-began
	ends[1]()
	ends[2]()
	if running, waiting := turns.Now(); running+waiting != 0 || len(turns.of) != 0 {
		t.Errorf("%d run, %d wait, %d keys are left", running, waiting, len(turns.of))
	}
}

// TestAbandonedTurnIsHandedOn lets waiters give up at any moment: no turn is lost, and never do two share one.
func TestAbandonedTurnIsHandedOn(t *testing.T) {
	turns := NewTurns[int](1, 100)
	var running, served atomic.Int32
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%2 == 0 {
				go cancel()
			}
			release, err := turns.Take(ctx, 1)
			if err != nil {
				return
			}
			if running.Add(1) != 1 {
				t.Error("two at once")
			}
			served.Add(1)
			running.Add(-1)
			release()
		})
	}
	group.Wait()
	if served.Load() < 32 || len(turns.of) != 0 {
		t.Errorf("%d served, %d keys left", served.Load(), len(turns.of))
	}
}
