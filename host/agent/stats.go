package agent

import (
	"sync/atomic"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/datapath"
)

// Stats counts what a running agent holds, and what went wrong since it began.
type Stats struct {
	Guests map[string]int // by state, as host.VMState spells it; every state has an entry
	// Drops counts packets of guests and of the tunnel by reason, for as long as the agent runs; every reason has an entry.
	// On a host without a network they stay zero.
	Drops map[string]uint64
	// FailedSteps counts steps of guests that failed, FailedStarts starts, FailedNetworks network states that were not
	// applied in full. Each is tried again.
	FailedSteps, FailedStarts, FailedNetworks uint64
}

// failures counts since the agent began.
type failures struct {
	steps, starts, networks atomic.Uint64
}

// dropCounter is a Network that tells why it drops packets.
type dropCounter interface {
	// Drops counts by reason since the network was opened. It never goes back.
	Drops() (map[string]uint64, error)
}

// stats counts now.
func (a *agent) stats() Stats {
	out := Stats{
		Guests: map[string]int{}, Drops: map[string]uint64{},
		FailedSteps: a.failed.steps.Load(), FailedStarts: a.failed.starts.Load(), FailedNetworks: a.failed.networks.Load(),
	}
	for state := host.VMPreparing; state <= host.VMQuarantined; state++ {
		out.Guests[state.String()] = 0
	}
	for _, reason := range datapath.Reasons() {
		out.Drops[reason.String()] = 0
	}
	a.mu.Lock()
	for _, w := range a.workers {
		if w.state != 0 {
			out.Guests[w.state.String()]++
		}
	}
	a.mu.Unlock()
	if network, counts := a.o.Network.(dropCounter); counts {
		drops, err := network.Drops()
		if err != nil {
			a.o.Log.Warn("drops are not read", "err", err)
			out.Drops = nil // none is better than a count that goes back
		}
		for reason, n := range drops {
			out.Drops[reason] = n
		}
	}
	return out
}
