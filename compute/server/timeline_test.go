package server

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestTimelineAgreesWithSorting inserts, replaces and removes at random, far from and near the end, and compares what pages
// show with all rows sorted.
func TestTimelineAgreesWithSorting(t *testing.T) {
	for seed := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, 1))
		v := newView()
		const owner = ids.Account("111111111111")
		have := map[ids.Instance]*computerows.Instance{}
		for step := range 4000 {
			id := ids.Instance(fmt.Sprint(random.IntN(3000)))
			old := have[id]
			switch {
			case old != nil && random.IntN(2) == 0:
				delete(have, id)
				v.setInstance(id, nil)
				continue
			case old != nil:
				changed := *old
				changed.Generation++
				have[id] = &changed
			default:
				created := int64(step)
				if seed%2 == 0 || random.IntN(100) == 0 {
					created = random.Int64N(5000) // as a snapshot gives them, or a launch that took long
				}
				have[id] = &computerows.Instance{ID: id, Account: owner, CreatedMs: created, Reservation: ids.Reservation(id), LaunchIndex: random.IntN(3)}
			}
			v.setInstance(id, have[id])
		}
		want := slices.SortedFunc(maps.Values(have), func(a, b *computerows.Instance) int {
			return cmp.Or(cmp.Compare(a.CreatedMs, b.CreatedMs), cmp.Compare(a.Reservation, b.Reservation), cmp.Compare(a.LaunchIndex, b.LaunchIndex))
		})
		var got []*computerows.Instance
		for after := (compute.Position{}); ; {
			page := v.after(owner, after, 7)
			got = append(got, page...)
			if len(page) < 7 {
				break
			}
			after = page[len(page)-1].Position()
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %d rows in pages, %d there", seed, len(got), len(want))
		}
		if v.of(owner); !slices.Equal(v.of(owner), want) {
			t.Fatalf("seed %d: all rows differ", seed)
		}
		for id := range have {
			v.setInstance(id, nil)
		}
		if len(v.ofAccount) != 0 {
			t.Fatalf("seed %d: an empty timeline stays", seed)
		}
	}
}

// TestPositionText: texts sort as positions do, and are read back.
func TestPositionText(t *testing.T) {
	list := []compute.Position{{}, {CreatedMs: 5, Reservation: "r-2"}, {CreatedMs: 5, Reservation: "r-2", LaunchIndex: 29}, {CreatedMs: 70, Reservation: "r-1", LaunchIndex: 3}}
	for k, p := range list[1:] {
		got, err := compute.ParsePosition(p.String())
		if err != nil || got != p {
			t.Errorf("%v is read back as %v, %v", p, got, err)
		}
		if before := list[k]; before.Compare(p) >= 0 || before.String() >= p.String() {
			t.Errorf("%v and %v are not in order", before, p)
		}
	}
	if p, err := compute.ParsePosition(""); err != nil || p != (compute.Position{}) {
		t.Errorf("no text is %v, %v", p, err)
	}
	if _, err := compute.ParsePosition("tomorrow"); err == nil {
		t.Error("nonsense was read")
	}
}

func BenchmarkPageOf100k(b *testing.B) {
	v := newView()
	const owner = ids.Account("111111111111")
	for k := range 100_000 {
		id := ids.Instance(fmt.Sprint("i-", k))
		v.setInstance(id, &computerows.Instance{ID: id, Account: owner, CreatedMs: int64(k), Reservation: ids.Reservation(id)})
	}
	for b.Loop() {
		v.after(owner, compute.Position{CreatedMs: 50_000}, 1000)
	}
}
