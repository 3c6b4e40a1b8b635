package bench

import (
	"fmt"
	"strings"

	"github.com/nimbrel/nimbrel/test/inventory"
)

// othersShown bounds how many changes by others are told.
const othersShown = 5

// LeavesNothing checks, as bench_leaves_nothing, that nothing of the run's own has changed on the machine since the watch
// began. What others changed meanwhile is mentioned and left to them.
func (r *Run) LeavesNothing(w inventory.Watch, ours func(line string) bool) {
	mine, others := w.Changes(ours)
	for _, line := range others[:min(len(others), othersShown)] {
		Progress("changed meanwhile, by others: %.120s", line)
	}
	if more := len(others) - othersShown; more > 0 {
		Progress("and %d more changes by others", more)
	}
	var err error
	if len(mine) > 0 {
		err = fmt.Errorf("%d things are left: %s", len(mine), strings.Join(mine, "; "))
	}
	r.Check("bench_leaves_nothing", "", err)
}
