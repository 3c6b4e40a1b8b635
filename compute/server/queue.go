package server

import (
	"context"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// work names what to look at: one instance, or one host. It carries no event; whoever takes it looks at what is.
type work struct {
	instance ids.Instance
	host     ids.Host
}

// queue is a set of work: adding what waits already changes nothing, and what is added while it is being done is done
// again after. So one key is never worked on twice at a time, and the queue is never longer than what exists.
type queue struct {
	mu     sync.Mutex
	ready  []work
	known  map[work]bool // waiting
	doing  map[work]bool // being done; true when added meanwhile
	paused map[work]bool // waits out a pause, see addAfter
	signal chan struct{} // holds a token while ready may be non-empty
}

func newQueue() *queue {
	return &queue{known: map[work]bool{}, doing: map[work]bool{}, paused: map[work]bool{}, signal: make(chan struct{}, 1)}
}

// add adds work: all of it at once, as dozens of workers ask for the lock between.
func (q *queue) add(list ...work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range list {
		if _, busy := q.doing[w]; busy {
			q.doing[w] = true
			continue
		}
		q.push(w)
	}
}

// addAfter adds w after a pause. A key has one pause at a time, whatever else adds it meanwhile: were each failure to begin
// another, a key that the tick adds too would be tried more often with every tick that it goes on failing. It tells whether
// a pause was begun.
func (q *queue) addAfter(w work, pause time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.paused[w] {
		return false
	}
	q.paused[w] = true
	time.AfterFunc(pause, func() {
		q.mu.Lock()
		delete(q.paused, w)
		q.mu.Unlock()
		q.add(w)
	})
	return true
}

// push makes w wait unless it does; mu is held.
func (q *queue) push(w work) {
	if q.known[w] {
		return
	}
	q.known[w] = true
	q.ready = append(q.ready, w)
	q.raise()
}

func (q *queue) raise() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// take waits for work; false when ctx has ended.
func (q *queue) take(ctx context.Context) (work, bool) {
	for {
		if w, ok := q.pop(); ok {
			return w, true
		}
		select {
		case <-ctx.Done():
			return work{}, false
		case <-q.signal:
		}
	}
}

func (q *queue) pop() (work, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		return work{}, false
	}
	w := q.ready[0]
	q.ready = q.ready[1:]
	delete(q.known, w)
	q.doing[w] = false
	if len(q.ready) > 0 {
		q.raise() // for the next taker
	}
	return w, true
}

// done ends what take began.
func (q *queue) done(w work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.doing[w]
	delete(q.doing, w)
	if again {
		q.push(w)
	}
}
