package place

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/internal/ids"
)

func tiny(t testing.TB) fit.Size {
	kind, ok := compute.TypeNamed("nb1.tiny")
	if !ok {
		t.Fatal("nb1.tiny is not in the table")
	}
	return fit.Of(kind, 1)
}

func fleet(n int, left fit.Size) []Host {
	hosts := make([]Host, n)
	for i := range hosts {
		hosts[i] = Host{ID: ids.Host(fmt.Sprintf("h-%017x", i)), Total: fit.Size{VCPUs: 16, MemoryMiB: 65536, DiskGiB: 100, Slots: 1000}, Left: left}
	}
	return hosts
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestChooseKeepsFourLeastLoaded(t *testing.T) {
	hosts := fleet(16, fit.Size{VCPUs: 8, MemoryMiB: 65536, DiskGiB: 100, Slots: 1000})
	for i := range 4 {
		hosts[3*i].Left.VCPUs = int64(16 - i) // hosts 0, 3, 6, 9 from emptiest up
	}
	got := New(hosts, seeded()).Choose(tiny(t), Candidates)
	want := []ids.Host{hosts[0].ID, hosts[3].ID, hosts[6].ID, hosts[9].ID}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("chose %v, want %v", got, want)
	}
}

func TestChooseNeverProposesWhatDoesNotFit(t *testing.T) {
	for _, r := range fit.Resources {
		hosts := fleet(40, fit.Size{VCPUs: 8, MemoryMiB: 4096, DiskGiB: 8, Slots: 8})
		for i := range hosts {
			if i == 17 {
				continue
			}
			short := map[fit.Resource]*int64{fit.VCPU: &hosts[i].Left.VCPUs, fit.Memory: &hosts[i].Left.MemoryMiB, fit.Disk: &hosts[i].Left.DiskGiB, fit.Slots: &hosts[i].Left.Slots}
			*short[r] = tiny(t).In(r) - 1
		}
		got := New(hosts, seeded()).Choose(tiny(t), Candidates)
		if len(got) != 1 || got[0] != hosts[17].ID {
			t.Errorf("short of %s: chose %v, want only %s", r, got, hosts[17].ID)
		}
	}
}

func TestLaunchSpreadsOverItsOwnProposals(t *testing.T) {
	hosts := fleet(5, fit.Size{VCPUs: 16, MemoryMiB: 65536, DiskGiB: 100, Slots: 1000})
	chooser := New(hosts, seeded())
	first := map[ids.Host]int{}
	for range 10 {
		first[chooser.Choose(tiny(t), Candidates)[0]]++
	}
	for _, h := range hosts {
		if first[h.ID] != 2 {
			t.Fatalf("10 instances on 5 equal hosts were proposed as %v", first)
		}
	}
}

func TestDrainRulesOut(t *testing.T) {
	hosts := fleet(1, fit.Size{VCPUs: 16, MemoryMiB: 65536, DiskGiB: 100, Slots: 1000 - fit.DrainWeight})
	if got := New(hosts, seeded()).Choose(tiny(t), 4); len(got) != 0 {
		t.Fatalf("a draining host was chosen: %v", got)
	}
}

func BenchmarkChoose(b *testing.B) {
	hosts := fleet(10000, fit.Size{VCPUs: 16, MemoryMiB: 65536, DiskGiB: 100, Slots: 1000})
	need := tiny(b)
	chooser := New(hosts, seeded())
	for n := 0; b.Loop(); n++ {
		if n%10000 == 9999 {
			chooser = New(hosts, seeded()) // before its own proposals fill the fleet
		}
		chooser.Choose(need, Candidates)
	}
}
