package server

import (
	"time"

	"github.com/nimbrel/nimbrel/compute"
)

// Stats counts instances as this server's memory shows them, and the reconciler's work.
type Stats struct {
	Instances map[compute.State]int // every state has an entry
	// Oldest is how long the instance that is in a state the longest has been there; zero when there is none. Terminated
	// has no entry: nobody waits for the end of it.
	Oldest map[compute.State]time.Duration
	// Queued waits for a worker, Working has one.
	Queued, Working int
}

// Stats counts now.
func (s *Service) Stats() Stats {
	now := s.options.Env.Clock.Now()
	out := Stats{Instances: map[compute.State]int{compute.Terminated: 0}, Oldest: map[compute.State]time.Duration{}}
	for _, state := range []compute.State{compute.Pending, compute.Running, compute.ShuttingDown, compute.Stopping, compute.Stopped} {
		out.Instances[state], out.Oldest[state] = 0, 0
	}
	s.view.mu.RLock()
	for _, i := range s.view.instances {
		out.Instances[i.State]++
		if age, waits := out.Oldest[i.State]; waits {
			out.Oldest[i.State] = max(age, now.Sub(time.UnixMilli(i.TransitionMs)))
		}
	}
	s.view.mu.RUnlock()
	out.Queued, out.Working = s.queue.size()
	return out
}

func (q *queue) size() (waiting, working int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready), len(q.doing)
}
