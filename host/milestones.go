package host

import (
	"cmp"
	"slices"
)

// Milestone is one thing that a start has reached, in Unix time of the host's clock.
type Milestone struct {
	Name string
	AtMs int64
}

// Milestones are what the start that a report speaks of has reached, in order of time.
func (s *InstanceStatus) Milestones() []Milestone {
	var reached []Milestone
	for _, m := range []Milestone{
		{"received", s.ReceivedMs},
		{"image ready", s.ImageMs},
		{"network ready", s.PortsMs},
		{"machine started", s.StartedMs},
		{"guest's first DHCP", s.DHCPMs},
	} {
		if m.AtMs > 0 {
			reached = append(reached, m)
		}
	}
	slices.SortStableFunc(reached, func(a, b Milestone) int { return cmp.Compare(a.AtMs, b.AtMs) })
	return reached
}
