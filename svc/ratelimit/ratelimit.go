// Package ratelimit admits work by tenant: Buckets bound how often, Turns bound how much at once. Both keep tenants apart,
// so that what one asks for costs another nothing.
//
// Invariants: memory is bounded whatever the number of tenants; a tenant that asks for nothing has nothing here; an
// operation on either takes constant time, but for a sweep of full buckets that happens at most once in the time that
// an empty one takes to fill.
//
// Deliberately absent: who a tenant is (admit after authentication, or outsiders spend a tenant's tokens), limits across
// processes, and clocks: Buckets are told the time. Start reading at Buckets and Turns.
package ratelimit

import (
	"sync"
	"time"
)

// Rate is what a bucket gives: PerSecond tokens a second, and Burst at once after a rest. The zero Rate has no bound.
type Rate struct {
	PerSecond float64
	Burst     float64
}

// unbounded says that nothing is counted.
func (r Rate) unbounded() bool { return r.PerSecond <= 0 }

// fill is how long an empty bucket takes to be full.
func (r Rate) fill() time.Duration {
	return time.Duration(r.Burst / r.PerSecond * float64(time.Second))
}

// bucket has tokens as of a time. A full one and none are the same.
type bucket struct {
	tokens float64
	at     time.Time
}

// Buckets are token buckets by key, safe for concurrent use.
type Buckets[K comparable] struct {
	rate Rate
	max  int

	mu    sync.Mutex
	of    map[K]*bucket // at most max
	rest  bucket        // shared by the keys that have no place
	swept time.Time
}

// NewBuckets makes buckets for at most maxKeys keys that are not full; the keys beyond share one.
func NewBuckets[K comparable](rate Rate, maxKeys int) *Buckets[K] {
	return &Buckets[K]{rate: rate, max: maxKeys, of: map[K]*bucket{}, rest: bucket{tokens: rate.Burst}}
}

// Take takes a token of k's, if there is one. Otherwise wait is how long until there is.
func (b *Buckets[K]) Take(k K, now time.Time) (wait time.Duration, ok bool) {
	if b.rate.unbounded() {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.bucket(k, now)
	of.refill(b.rate, now)
	if of.tokens < 1 {
		return of.wait(b.rate), false
	}
	of.tokens--
	return 0, true
}

// Empty says whether Take would refuse, and for how long. It takes nothing and keeps nothing, so it may be asked for a
// key that is merely claimed.
func (b *Buckets[K]) Empty(k K, now time.Time) (wait time.Duration, empty bool) {
	if b.rate.unbounded() {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.of[k]
	if of == nil {
		return 0, false
	}
	seen := *of
	seen.refill(b.rate, now)
	return seen.wait(b.rate), seen.tokens < 1
}

// Len is how many keys have a bucket.
func (b *Buckets[K]) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.of)
}

// bucket finds or makes k's; mu is held.
func (b *Buckets[K]) bucket(k K, now time.Time) *bucket {
	if of := b.of[k]; of != nil {
		return of
	}
	if len(b.of) >= b.max {
		b.sweep(now)
	}
	if len(b.of) >= b.max {
		return &b.rest
	}
	of := &bucket{tokens: b.rate.Burst, at: now}
	b.of[k] = of
	return of
}

// sweep forgets the full ones; mu is held. A second sweep within the time that a bucket takes to fill would find little.
func (b *Buckets[K]) sweep(now time.Time) {
	if now.Sub(b.swept) < b.rate.fill() {
		return
	}
	b.swept = now
	for k, of := range b.of {
		if of.refill(b.rate, now); of.tokens >= b.rate.Burst {
			delete(b.of, k)
		}
	}
}

// maxLate is how much later than others a caller may come with the time that it read.
const maxLate = time.Second

// refill gives what the time since the last look is worth, once: callers read the clock before they wait for the bucket, so
// the one at hand may be from before the last look, and going back to it would give the time between twice. A clock that
// was set back gives nothing, and goes on from there.
func (b *bucket) refill(r Rate, now time.Time) {
	passed := now.Sub(b.at)
	if passed > 0 {
		b.tokens = min(r.Burst, b.tokens+passed.Seconds()*r.PerSecond)
	}
	if passed > 0 || passed < -maxLate {
		b.at = now
	}
}

func (b *bucket) wait(r Rate) time.Duration {
	return time.Duration(max(0, 1-b.tokens) / r.PerSecond * float64(time.Second))
}
