package server

import (
	"slices"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
)

// timeline is one account's instances in order. Launches commit nearly in the order of their times, so new rows go to the
// end or close to it. Others, as those of a snapshot, wait unsorted behind the settled ones until somebody looks.
type timeline struct {
	rows    []*computerows.Instance
	settled int // rows[:settled] are in order
}

// nearEnd is how far from the end a row may be moved in at once. Farther in, moving the rest would cost more than to sort
// what has gathered.
const nearEnd = 1024

// search finds a position among settled rows, which must be all.
func (t *timeline) search(p compute.Position) (int, bool) {
	return slices.BinarySearchFunc(t.rows, p, func(row *computerows.Instance, p compute.Position) int { return row.Position().Compare(p) })
}

// insert adds a row that is not there.
func (t *timeline) insert(row *computerows.Instance) {
	if t.settled == len(t.rows) {
		if k, _ := t.search(row.Position()); len(t.rows)-k <= nearEnd {
			t.rows = slices.Insert(t.rows, k, row)
			t.settled++
			return
		}
	}
	t.rows = append(t.rows, row)
}

// replace puts a row in the place of an older one of the same instance.
func (t *timeline) replace(row *computerows.Instance) {
	t.settle()
	if k, found := t.search(row.Position()); found {
		t.rows[k] = row
	}
}

// remove takes an instance's row out.
func (t *timeline) remove(row *computerows.Instance) {
	t.settle()
	if k, found := t.search(row.Position()); found {
		t.rows = slices.Delete(t.rows, k, k+1)
		t.settled--
	}
}

func (t *timeline) settle() {
	if t.settled < len(t.rows) {
		slices.SortFunc(t.rows, func(a, b *computerows.Instance) int { return a.Position().Compare(b.Position()) })
		t.settled = len(t.rows)
	}
}

// after copies at most n rows that follow a position.
func (t *timeline) after(p compute.Position, n int) []*computerows.Instance {
	k, found := t.search(p)
	if found {
		k++
	}
	return slices.Clone(t.rows[k : k+min(n, len(t.rows)-k)])
}
