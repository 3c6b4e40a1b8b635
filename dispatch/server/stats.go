package server

import "github.com/nimbrel/nimbrel/dispatch"

// Stats counts targets and sessions as they are now.
type Stats struct {
	Targets  map[dispatch.Liveness]int // heard since this server started; every liveness has an entry
	Sessions int                       // open and named
	// Connections counts those that have not said yet who they are, too.
	Connections int
}

// Stats counts now.
func (s *Server) Stats() Stats {
	out := Stats{Targets: map[dispatch.Liveness]int{dispatch.Down: 0, dispatch.Up: 0, dispatch.Suspect: 0, dispatch.Dead: 0}}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Connections = len(s.conns)
	for _, t := range s.targets {
		out.Targets[t.liveness]++
		if t.live != nil {
			out.Sessions++
		}
	}
	return out
}
