package embed

import (
	"sync"

	"github.com/nimbrel/nimbrel/store"
)

// waiter is one commit between its caller and the transactor.
type waiter struct {
	commit *store.Commit
	digest [16]byte
	taken  bool // queue.mu

	answer *store.Answer // valid after done is closed
	err    error
	done   chan struct{}
}

// finish wakes the caller.
func (w *waiter) finish(a *store.Answer, err error) {
	w.answer, w.err = a, err
	close(w.done)
}

// queue holds the commits that the transactor has not taken, in order of arrival.
type queue struct {
	limit, tenantLimit int
	ready              chan struct{} // has one element when waiting may be non-empty or closed is set

	mu      sync.Mutex
	closed  bool           // mu
	waiting []*waiter      // mu
	tenants map[string]int // mu; how many of each wait
}

func newQueue(limit, tenantLimit int) *queue {
	return &queue{limit: limit, tenantLimit: tenantLimit, ready: make(chan struct{}, 1), tenants: map[string]int{}}
}

// push adds a commit, or answers its refusal.
func (q *queue) push(w *waiter) (*store.Answer, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	tenant := w.commit.Tenant
	switch {
	case q.closed:
		return nil, store.ErrClosed
	case len(q.waiting) >= q.limit:
		return store.Refuse(store.ReasonOverloaded, "%d commits wait", len(q.waiting)), nil
	case q.tenants[tenant] >= q.tenantLimit:
		return store.Refuse(store.ReasonOverloaded, "%d commits of tenant %q wait", q.tenants[tenant], tenant), nil
	}
	q.waiting = append(q.waiting, w)
	q.tenants[tenant]++
	q.wake()
	return nil, nil
}

// take returns at most n commits in order.
func (q *queue) take(n int) []*waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.waiting))
	taken := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	for _, w := range taken {
		w.taken = true
		q.leave(w)
	}
	if len(q.waiting) > 0 {
		q.wake()
	}
	return taken
}

// len returns how many wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// withdraw removes a commit that was not taken, and tells whether it did.
func (q *queue) withdraw(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.taken {
		return false
	}
	for i, other := range q.waiting {
		if other == w {
			q.waiting = append(append([]*waiter{}, q.waiting[:i]...), q.waiting[i+1:]...)
			q.leave(w)
			break
		}
	}
	return true
}

// leave counts a commit out of its tenant's. q.mu is held.
func (q *queue) leave(w *waiter) {
	tenant := w.commit.Tenant
	if q.tenants[tenant]--; q.tenants[tenant] == 0 {
		delete(q.tenants, tenant)
	}
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// close refuses further commits; those that wait are still taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

// drained tells whether the queue is closed and empty.
func (q *queue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.waiting) == 0
}
