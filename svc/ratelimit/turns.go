package ratelimit

import (
	"context"
	"errors"
	"sync"
)

// ErrQueueFull is Turns' answer when too many of a key wait already.
var ErrQueueFull = errors.New("too much work of one tenant waits already")

// Turns bounds how much of a key's work runs at once. More waits for its turn, first come first served within the key and
// in nobody's way outside of it. It is safe for concurrent use.
type Turns[K comparable] struct {
	running, waiting int // bounds for one key

	mu sync.Mutex
	of map[K]*turns // of keys with work only
}

type turns struct {
	running int
	queue   []chan struct{} // closed when it is the waiter's turn
}

// NewTurns lets each key have running at once and waiting for that.
func NewTurns[K comparable](running, waiting int) *Turns[K] {
	return &Turns[K]{running: running, waiting: waiting, of: map[K]*turns{}}
}

// Take waits for k's turn and returns how to end it, which must be called once. The error is ErrQueueFull, or ctx's when
// that ends first.
func (t *Turns[K]) Take(ctx context.Context, k K) (release func(), err error) {
	turn, err := t.join(k)
	if err != nil {
		return nil, err
	}
	release = func() { t.leave(k) }
	if turn == nil {
		return release, nil
	}
	select {
	case <-turn:
		return release, nil
	case <-ctx.Done():
		t.abandon(k, turn)
		return nil, ctx.Err()
	}
}

// Full says whether Take would answer ErrQueueFull now.
func (t *Turns[K]) Full(k K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.of[k]
	return of != nil && len(of.queue) >= t.waiting && of.running >= t.running
}

// Now counts what runs and what waits, of all keys.
func (t *Turns[K]) Now() (running, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, of := range t.of {
		running, waiting = running+of.running, waiting+len(of.queue)
	}
	return running, waiting
}

// join begins, or gets in line: then turn is what to wait for.
func (t *Turns[K]) join(k K) (turn chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.of[k]
	if of == nil {
		of = &turns{}
		t.of[k] = of
	}
	switch {
	case of.running < t.running:
		of.running++
		return nil, nil
	case len(of.queue) >= t.waiting:
		return nil, ErrQueueFull
	}
	turn = make(chan struct{})
	of.queue = append(of.queue, turn)
	return turn, nil
}

// leave ends one and hands its turn on.
func (t *Turns[K]) leave(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handOn(k)
}

// handOn gives a turn that is over to the next in line; mu is held.
func (t *Turns[K]) handOn(k K) {
	of := t.of[k]
	if len(of.queue) > 0 {
		close(of.queue[0])
		of.queue = of.queue[1:]
		return
	}
	if of.running--; of.running == 0 {
		delete(t.of, k)
	}
}

// abandon leaves the line. A turn that came meanwhile is handed on.
func (t *Turns[K]) abandon(k K, turn chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.of[k]
	for i, waits := range of.queue {
		if waits == turn {
			of.queue = append(of.queue[:i:i], of.queue[i+1:]...)
			return
		}
	}
	t.handOn(k)
}
