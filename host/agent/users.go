package agent

import (
	"fmt"
	"sync"
)

// userPool hands out one user id a guest. A zero base hands out 0: the agent's own user.
type userPool struct {
	base, count int

	mu    sync.Mutex
	taken map[int]bool
}

func newUserPool(base, count int) *userPool {
	return &userPool{base: base, count: count, taken: map[int]bool{}}
}

// take marks the user of an adopted guest.
func (p *userPool) take(uid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[uid] = true
}

// next finds a free user.
func (p *userPool) next() (int, error) {
	if p.base == 0 {
		return 0, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid := p.base; uid < p.base+p.count; uid++ {
		if !p.taken[uid] {
			p.taken[uid] = true
			return uid, nil
		}
	}
	return 0, fmt.Errorf("all %d users from %d on are taken by guests", p.count, p.base)
}

func (p *userPool) give(uid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, uid)
}
