package embed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/store"
)

// benchClients is how many commit at once.
const benchClients = 64

// BenchmarkHotAdd adds to one counter from 64 clients with fsync, in rounds that alternate with a bare Pebble batch and
// Sync from 64 clients and with one writer that appends 4 KiB and syncs. It reports medians of commits per second and
// their ratios; run it with -benchtime=1x on a calm machine. Compare only figures of one run: the disk's sync time moves.
func BenchmarkHotAdd(b *testing.B) {
	const rounds, length = 5, 2 * time.Second
	for range b.N {
		var ours, uniform, pebbles, serial []float64
		for range rounds {
			ours = append(ours, engineRate(b, length, func(int) store.Template { return store.Key("n") }))
			uniform = append(uniform, engineRate(b, length, func(i int) store.Template { return store.Key("n", i%10000) }))
			pebbles = append(pebbles, pebbleRate(b, length))
			serial = append(serial, serialRate(b, length))
		}
		hot := median(ours)
		b.ReportMetric(hot, "hot_commits/s")
		b.ReportMetric(median(uniform), "uniform_commits/s")
		b.ReportMetric(median(pebbles), "pebble_commits/s")
		b.ReportMetric(median(serial), "fdatasync/s")
		b.ReportMetric(hot/median(pebbles), "hot_over_pebble")
		b.ReportMetric(hot/median(uniform), "hot_over_uniform")
		b.ReportMetric(hot/median(serial), "hot_over_fdatasync")
		b.Logf("rounds: hot %.0f, uniform %.0f, pebble %.0f, fdatasync %.0f", ours, uniform, pebbles, serial)
	}
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

// rate runs op from the clients for a time, and returns operations per second.
func rate(b *testing.B, clients int, length time.Duration, op func(i int) error) float64 {
	var done atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range clients {
		group.Go(func() {
			for time.Since(start) < length {
				if err := op(int(done.Add(1))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}

func engineRate(b *testing.B, length time.Duration, key func(i int) store.Template) float64 {
	e, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	db := store.New(e, store.Options{})
	ctx := context.Background()
	return rate(b, benchClients, length, func(i int) error {
		k := key(i)
		_, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Add(k, 1, 0, 1<<60); return nil })
		return err
	})
}

func pebbleRate(b *testing.B, length time.Duration) float64 {
	db, err := pebble.Open(b.TempDir(), &pebble.Options{FormatMajorVersion: pebble.FormatNewest, MemTableSize: 32 << 20,
		Logger: pebbleLog{}})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	value := make([]byte, 100)
	return rate(b, benchClients, length, func(i int) error {
		return db.Set(fmt.Appendf(nil, "%016d", i%10000), value, pebble.Sync)
	})
}

func serialRate(b *testing.B, length time.Duration) float64 {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	return rate(b, 1, length, func(int) error {
		if _, err := f.Write(block); err != nil {
			return err
		}
		return unix.Fdatasync(int(f.Fd()))
	})
}
