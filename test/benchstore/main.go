// Command benchstore measures the embedded store's hot key: 64 clients add to one counter with fsync, in rounds that
// alternate with
//
//	uniform    the same with 10,000 counters
//	pebble     64 clients that each set 100 bytes of one of 10,000 keys in the engine below the store, and sync
//	fdatasync  one writer that appends 4 KiB and syncs
//
// Figures are the medians of the rounds, in commits a second, and their quotients: store.hot_over_pebble and its like. Keys,
// values and clients of store and engine are the same in number; what the store adds is transactions, their log and history.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/test/bench"
)

const keys = 10_000

type options struct {
	bench.Options
	clients, rounds int
	round           time.Duration
}

func main() {
	o := options{Options: bench.Options{Part: "store"}}
	o.Flags("build")
	flag.IntVar(&o.clients, "clients", 64, "that commit at once")
	flag.IntVar(&o.rounds, "rounds", 5, "of each kind")
	flag.DurationVar(&o.round, "round", 2*time.Second, "how long a round is")
	flag.Parse()
	bench.Main(o.run)
}

func (o options) run(ctx context.Context) error {
	r, err := bench.Start(o.Options)
	if err != nil {
		return err
	}
	return r.Finish(o.measure(ctx, r))
}

// kind is one of what is compared: a rate in commits a second, measured in a new folder.
type kind struct {
	name string
	rate func(ctx context.Context, dir string) (float64, error)
}

func (o options) measure(ctx context.Context, r *bench.Run) error {
	kinds := []kind{
		{"hot", func(ctx context.Context, dir string) (float64, error) {
			return o.storeRate(ctx, dir, func(int) store.Template { return store.Key("n") })
		}},
		{"uniform", func(ctx context.Context, dir string) (float64, error) {
			return o.storeRate(ctx, dir, func(n int) store.Template { return store.Key("n", n%keys) })
		}},
		{"pebble", o.pebbleRate},
		{"fdatasync", o.appendRate},
	}
	rates := map[string][]float64{}
	for round := range o.rounds {
		for _, k := range kinds {
			dir := filepath.Join(r.Dir(), fmt.Sprint(k.name, "-", round))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			rate, err := k.rate(ctx, dir)
			if err != nil {
				return fmt.Errorf("round %d of %s: %w", round+1, k.name, err)
			}
			rates[k.name] = append(rates[k.name], rate)
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
		if _, err := r.Sync(20); err != nil {
			return err
		}
		bench.Progress("round %d of %d: hot %.0f, uniform %.0f, pebble %.0f, fdatasync %.0f", round+1, o.rounds, rates["hot"], rates["uniform"], rates["pebble"], rates["fdatasync"])
	}
	hot := bench.Median(rates["hot"])
	for _, k := range kinds[1:] {
		r.Print(bench.Ratio("hot_over_"+k.name, hot, bench.Median(rates[k.name]), "/s"))
	}
	r.Print(bench.Figure{Name: "hot_commits_per_s", Value: hot, Unit: "commits/s"})
	return nil
}

// rate runs op from the clients for a round, and returns operations per second.
func (o options) rate(ctx context.Context, clients int, op func(n int) error) (float64, error) {
	var done atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, clients)
	begin := time.Now()
	for i := range clients {
		group.Go(func() {
			for time.Since(begin) < o.round && errs[i] == nil && ctx.Err() == nil {
				errs[i] = op(int(done.Add(1)))
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds(), errors.Join(append(errs, ctx.Err())...)
}

func (o options) storeRate(ctx context.Context, dir string, key func(n int) store.Template) (float64, error) {
	engine, err := embed.Open(dir, embed.Options{})
	if err != nil {
		return 0, err
	}
	db := store.New(engine, store.Options{})
	rate, err := o.rate(ctx, o.clients, func(n int) error {
		k := key(n)
		_, err := db.Transact(ctx, func(tx *store.Tx) error { tx.Add(k, 1, 0, 1<<60); return nil })
		return err
	})
	return rate, errors.Join(err, engine.Close())
}

// pebbleRate has the engine as the store opens it.
func (o options) pebbleRate(ctx context.Context, dir string) (float64, error) {
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, MemTableSize: 32 << 20, Logger: silent{}})
	if err != nil {
		return 0, err
	}
	value := make([]byte, 100)
	rate, err := o.rate(ctx, o.clients, func(n int) error { return db.Set(fmt.Appendf(nil, "%016d", n%keys), value, pebble.Sync) })
	return rate, errors.Join(err, db.Close())
}

func (o options) appendRate(ctx context.Context, dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	block := make([]byte, 4096)
	rate, err := o.rate(ctx, 1, func(int) error {
		if _, err := f.Write(block); err != nil {
			return err
		}
		return bench.SyncData(f)
	})
	return rate, errors.Join(err, f.Close())
}

// silent drops what the engine says of its compactions.
type silent struct{}

func (silent) Infof(string, ...any)           {}
func (silent) Errorf(format string, a ...any) { bench.Progress("pebble: "+format, a...) }
func (silent) Fatalf(format string, a ...any) { panic(fmt.Sprintf("pebble: "+format, a...)) }
