package core

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

var (
	searchOnly   = flag.String("search.only", "", "run the scenarios whose names begin so")
	searchWhole  = flag.Bool("search.whole", false, "run the large scenarios too, as make test does: a million states, more than a minute")
	searchDeep   = flag.Bool("search.deep", false, "run all scenarios with one more late copy, about ten times the states")
	searchMutant = flag.Bool("search.mutant", false, "stop at the first scenario that fails; required counts do not matter")
)

// scenarios are chosen so that each way to go wrong has a small one; the mutants of test/mutants each fail in one.
var scenarios = []scenario{
	{name: "adds", scripts: [][]kind{{addOne}, {addOne}}, copies: 1, losses: 1, crashes: 1, recentRows: 4, late: true, atLeast: 1000},
	{name: "takes", scripts: [][]kind{{takeOne}, {takeOne, giveZero}}, copies: 1, losses: 1, recentRows: 4},
	{name: "reads", scripts: [][]kind{{copyN}, {addOne}}, copies: 1, losses: 1, recentRows: 4, lazy: true},
	{name: "ranges", scripts: [][]kind{{countR}, {insertR}}, copies: 1, losses: 1, recentRows: 1},
	{name: "cancel", scripts: [][]kind{{addOne, takeOne}}, copies: 2, cancels: 1, losses: 1, crashes: 1, recentRows: 4, atLeast: 9000},
	{name: "expiry", scripts: [][]kind{{takeOne, takeOne}}, copies: 1, crashes: 1, ticks: 1, recentRows: 4, lifetimes: []int64{1000, 50}},
	{name: "refusal", scripts: [][]kind{{addB}, {deleteB}}, copies: 2, losses: 1, crashes: 1, recentRows: 4, atLeast: 2500},
	{name: "crossed", scripts: [][]kind{{addOne, copyN}, {copyN, addOne}}, copies: 2, losses: 1, crashes: 1, late: true, recentRows: 2, atLeast: 200_000},
	{name: "pool", scripts: [][]kind{{takeOne, takeOne}, {takeOne, giveZero}}, copies: 2, losses: 1, crashes: 1, late: true, recentRows: 4, atLeast: 80_000},
	{name: "three", scripts: [][]kind{{addOne}, {copyN}, {countR}}, copies: 2, losses: 1, crashes: 1, late: true, lazy: true, recentRows: 4, atLeast: 300_000},
	{name: "all", scripts: [][]kind{{addOne, copyN}, {takeOne, insertR}}, copies: 1, losses: 1, crashes: 1, cancels: 1, late: true, recentRows: 4,
		atLeast: 600_000},
}

// maxQueue bounds a batch's commits, maxFlights the batches in flight.
const maxQueue, maxFlights = 2, 3

// search walks every state of a scenario, depth first: the states form no cycle, as every step uses something up.
type search struct {
	seen  map[[16]byte]struct{}
	trace []string
	buf   []byte
	steps int
}

func (s *search) from(w *world) error {
	for _, a := range w.actions() {
		next := w.clone()
		s.trace = append(s.trace, a.name)
		s.steps++
		if err := a.do(next); err != nil {
			return err
		}
		if err := next.check(); err != nil {
			return err
		}
		h := next.hash(s.buf[:0])
		if _, seen := s.seen[h]; !seen {
			s.seen[h] = struct{}{}
			if err := s.from(next); err != nil {
				return err
			}
		}
		s.trace = s.trace[:len(s.trace)-1]
	}
	return nil
}

// action is one step that a world may take.
type action struct {
	name string
	do   func(*world) error
}

func (w *world) actions() (out []action) {
	add := func(name string, do func(*world) error) { out = append(out, action{name, do}) }
	for c := range w.clients {
		cl := &w.clients[c]
		switch {
		case !cl.waits && int(cl.at) < len(w.s.scripts[c]) && !w.stale:
			add(sprint("begin", c), func(w *world) error { w.begin(c); return nil })
		case cl.answer != nil && !w.stale:
			add(sprint("receive", c), func(w *world) error { w.receive(c); return nil })
		}
		if cl.waits && !cl.cancelled && w.cancels > 0 {
			add(sprint("cancel", c), func(w *world) error { w.cancel(c); return nil })
		}
	}
	if len(w.queue) < maxQueue && len(w.flights) < maxFlights {
		for i, m := range w.net {
			if m.fresh || w.copies > 0 {
				add(sprint("deliver", i), func(w *world) error { w.deliver(i); return nil })
			}
		}
	}
	if len(w.queue) > 0 {
		add("append", (*world).appendBatch)
	}
	if w.firstFlight() != nil || w.stale {
		add("sync", (*world).sync)
	}
	if w.ticks > 0 {
		add("tick", func(w *world) error { w.ticks--; w.nowMs += jumpMs; return nil })
	}
	if len(w.late) > 0 {
		add("land", (*world).land)
	}
	return append(out, w.faults()...)
}

func (w *world) faults() (out []action) {
	inFlight := 0
	for i, f := range w.flights {
		if f.node == nil {
			continue
		}
		inFlight++
		if w.losses > 0 && !w.stale && (!w.s.lazy || inFlight == 1) {
			out = append(out, action{sprint("lose", i), func(w *world) error { return w.lose(i) }})
		}
	}
	if w.crashes == 0 {
		return out
	}
	for reach := range inFlight + 1 {
		out = append(out, action{sprint("crash", reach), func(w *world) error { return w.crash(reach, false) }})
		if w.s.late && reach < inFlight {
			out = append(out, action{sprint("crash and late", reach), func(w *world) error { return w.crash(reach, true) }})
		}
	}
	return out
}

func sprint(what string, i int) string { return what + " " + string(rune('0'+i)) }

// wantStates is how many distinct states the search must reach in all.
const wantStates = 1_000_000

// TestSearch walks every order of steps of small worlds on the real core: requests of two or three clients, speculation,
// late copies, lost suffixes, crash and restart with late batches of the term before, cancels and expiry. Without a flag it
// walks the small ones.
func TestSearch(t *testing.T) {
	total, started := 0, time.Now()
	for i := range scenarios {
		s := scenarios[i]
		if !strings.HasPrefix(s.name, *searchOnly) {
			continue
		}
		if *searchDeep {
			s.copies++
		}
		if s.atLeast > 100_000 && !*searchWhole && !*searchDeep {
			continue
		}
		at := time.Now()
		run := &search{seen: map[[16]byte]struct{}{}, buf: make([]byte, 0, 4096)}
		if err := run.from(newWorld(&s)); err != nil {
			t.Fatalf("%s, after %d states: %v\n  %s", s.name, len(run.seen), err, strings.Join(run.trace, "\n  "))
		}
		fmt.Printf("search %-8s %8d states %9d steps %5.1f s\n", s.name, len(run.seen), run.steps, time.Since(at).Seconds())
		if len(run.seen) < s.atLeast && !*searchMutant {
			t.Errorf("%s has %d states, want %d: something is not tried any more", s.name, len(run.seen), s.atLeast)
		}
		total += len(run.seen)
	}
	fmt.Printf("figure store.search_states %d states, %.0f s\n", total, time.Since(started).Seconds())
	if total < wantStates && (*searchWhole || *searchDeep) && *searchOnly == "" {
		t.Errorf("%d states in all, want %d", total, wantStates)
	}
}
