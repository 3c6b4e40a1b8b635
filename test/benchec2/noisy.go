package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/test/bench"
)

// every is how often the neighbour asks, and maxFlight bounds the flood's requests under way: what is due beyond is
// dropped, as a client without connections would.
const (
	every     = 10 * time.Millisecond
	maxFlight = 256
)

// noisy alternates rounds without and with the flood.
func noisy(ctx context.Context, many, other *client, r *bench.Run, o options) error {
	var quiet, loud []time.Duration
	var sent, refused, dropped int64
	for round := range o.rounds {
		alone, err := other.steady(ctx, o.round)
		if err != nil {
			return err
		}
		flooding, stop := context.WithCancel(ctx)
		var flood flood
		var group sync.WaitGroup
		var floodErr error
		group.Go(func() { floodErr = flood.run(flooding, many, o.flood) })
		crowded, err := other.steady(ctx, o.round)
		stop()
		group.Wait()
		if err != nil || floodErr != nil {
			return fmt.Errorf("round %d: neighbour %w, flood %w", round+1, err, floodErr)
		}
		quiet, loud = append(quiet, bench.Quantile(alone, 0.99)), append(loud, bench.Quantile(crowded, 0.99))
		sent, refused, dropped = sent+flood.sent.Load(), refused+flood.refused.Load(), dropped+flood.dropped.Load()
		bench.Progress("round %d: p50 %v and p99 %v alone, p50 %v and p99 %v beside the flood", round+1, bench.Quantile(alone, 0.5), quiet[round], bench.Quantile(crowded, 0.5), loud[round])
	}
	seconds := o.round.Seconds() * float64(o.rounds)
	r.Print(bench.Figure{Name: "flood_sent_per_s", Value: float64(sent) / seconds, Unit: "requests/s"})
	r.Print(bench.Figure{Name: "flood_refused_fraction", Value: float64(refused) / float64(max(1, sent)), Unit: "fraction"})
	r.Print(bench.Figure{Name: "flood_dropped_per_s", Value: float64(dropped) / seconds, Unit: "requests/s"})
	f := bench.RatioOfMedians("noisy_neighbour_p99_ratio", loud, quiet)
	f.Detail = fmt.Sprintf("rounds=%d", o.rounds)
	r.AtMost(f, noisyGoal, nil)
	return nil
}

// steady asks every 10 ms, each from when it was due.
func (c *client) steady(ctx context.Context, length time.Duration) ([]time.Duration, error) {
	s, err := c.sign("DescribeInstances")
	if err != nil {
		return nil, err
	}
	n := int(length / every)
	took, codes := make([]time.Duration, n), make([]int, n)
	var group sync.WaitGroup
	begin := time.Now()
	for i := range n {
		due := begin.Add(time.Duration(i) * every)
		time.Sleep(time.Until(due))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		group.Go(func() {
			codes[i] = s.count(c.limited)
			took[i] = time.Since(due)
		})
	}
	group.Wait()
	for _, code := range codes {
		if code != http.StatusOK {
			return nil, fmt.Errorf("the neighbour was answered %d", code)
		}
	}
	return took, nil
}

// flood is what the noisy account sends.
type flood struct{ sent, refused, dropped, flight atomic.Int64 }

// run sends at a rate until ctx ends, whether it is answered or not.
func (f *flood) run(ctx context.Context, c *client, perSecond int) error {
	s, err := c.sign("DescribeInstances", "MaxResults", "1000")
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	begin := time.Now()
	for due := 0; ctx.Err() == nil; {
		for ; due < int(time.Since(begin).Seconds()*float64(perSecond)); due++ {
			if f.flight.Load() >= maxFlight {
				f.dropped.Add(1)
				continue
			}
			f.flight.Add(1)
			f.sent.Add(1)
			group.Go(func() {
				defer f.flight.Add(-1)
				if s.count(c.limited) == http.StatusServiceUnavailable {
					f.refused.Add(1)
				}
			})
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}
