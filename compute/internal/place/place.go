// Package place chooses hosts for new instances.
//
// It samples 16 of the hosts that may take the instance and keeps the 4 least loaded, in order; the transaction takes the
// first of them on which the instance really fits (research: a guarded list of 4 out of 16 samples met no conflict in
// 200,000 placements on stale views). Pure: randomness and the view are input.
package place

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"

	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store/guard"
)

const (
	// Samples is how many hosts are looked at for one instance.
	Samples = 16
	// Candidates is how many of them the transaction may use.
	Candidates = 4
)

// Host is a host as the chooser sees it.
type Host struct {
	ID    ids.Host
	Total fit.Size
	Left  fit.Size
}

// Chooser picks candidates for the instances of one launch. It counts what it has proposed already, so that the instances
// of a launch spread out. Not safe for concurrent use.
type Chooser struct {
	hosts  []Host
	random *rand.Rand
}

// New makes a chooser over the hosts that may be used: of the right zone, connected and not draining.
func New(hosts []Host, random *rand.Rand) *Chooser {
	return &Chooser{hosts: append([]Host(nil), hosts...), random: random}
}

// Choose returns at most n hosts for one instance of the given size, the best first; none when it fits nowhere. It looks
// at Samples hosts at first, and at all when fewer than n of those fit.
func (c *Chooser) Choose(need fit.Size, n int) []ids.Host {
	n = min(n, Candidates)
	fitting := c.fitting(c.sample(), need)
	if len(fitting) < n {
		fitting = c.fitting(c.all(), need)
	}
	sort.SliceStable(fitting, func(i, j int) bool {
		return load(c.hosts[fitting[i]], need) < load(c.hosts[fitting[j]], need)
	})
	fitting = fitting[:min(n, len(fitting))]
	out := make([]ids.Host, len(fitting))
	for i, at := range fitting {
		out[i] = c.hosts[at].ID
	}
	if len(fitting) > 0 {
		first := &c.hosts[fitting[0]]
		first.Left = first.Left.Sub(need)
	}
	return out
}

// sample returns the indices of Samples different hosts in random order.
func (c *Chooser) sample() []int {
	if len(c.hosts) <= Samples {
		return c.all()
	}
	seen := make(map[int]bool, Samples)
	out := make([]int, 0, Samples)
	for len(out) < Samples {
		i := c.random.IntN(len(c.hosts))
		if !seen[i] {
			seen[i] = true
			out = append(out, i)
		}
	}
	return out
}

// all returns every index in random order: concurrent launches on equal views should not all prefer the same host.
func (c *Chooser) all() []int { return c.random.Perm(len(c.hosts)) }

func (c *Chooser) fitting(indices []int, need fit.Size) []int {
	var out []int
	for _, i := range indices {
		if fit.Take(c.hosts[i].ID, need).Eval(c.hosts[i]) == nil {
			out = append(out, i)
		}
	}
	return out
}

var _ guard.View = Host{}

// Int makes a host the view that its own guard is evaluated on.
func (h Host) Int(key []byte) (int64, bool) {
	var buffer [128]byte
	for _, r := range fit.Resources {
		if bytes.Equal(key, fit.AppendLeftKey(buffer[:0], h.ID, r)) {
			return h.Left.In(r), true
		}
	}
	return 0, false
}

// load is the fullest resource's share after the placement, from 0 to 1.
func load(h Host, need fit.Size) float64 {
	worst := 0.0
	for _, r := range fit.Resources {
		if total := h.Total.In(r); total > 0 {
			used := total - h.Left.In(r) + need.In(r)
			worst = max(worst, float64(used)/float64(total))
		}
	}
	return worst
}

// Explain says why nothing fits, for a person: how many hosts were looked at and how many each resource ruled out.
func Explain(hosts []Host, need fit.Size) string {
	if len(hosts) == 0 {
		return "no connected host takes new instances there"
	}
	var short []string
	for _, r := range fit.Resources {
		n := 0
		for _, h := range hosts {
			if h.Left.In(r) < need.In(r) {
				n++
			}
		}
		if n > 0 {
			short = append(short, fmt.Sprintf("%d lack %s (%d needed)", n, r, need.In(r)))
		}
	}
	if short == nil {
		return fmt.Sprintf("%d hosts have room for one, not for all that was asked", len(hosts))
	}
	return fmt.Sprintf("of %d hosts, %s", len(hosts), strings.Join(short, ", "))
}
