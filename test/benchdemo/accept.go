package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/test/bench"
)

// quiet is how long nothing is asked of the cloud before each thing that is timed. A processor and a disk that were left
// alone answer later than busy ones, here a sync in twice the time, so a launch is paired with a sync after the same quiet.
const quiet = 20 * time.Millisecond

const acceptFigure = "run_accept_over_fsync"

// acceptOverSync launches one instance after the other, each paired with one sync. Beside them it times syncs without a
// pause between them, for the record.
func (b *run) acceptOverSync(ctx context.Context, c *cloud) (bench.Figure, error) {
	bench.Progress("launching %d instances on fake hosts", b.launches)
	if err := c.up(ctx, b.built); err != nil {
		return bench.Figure{}, err
	}
	d, err := openDoor(ctx, c)
	if err != nil {
		return bench.Figure{}, err
	}
	image, err := d.Image(ctx)
	if err != nil {
		return bench.Figure{}, err
	}
	var accepts, syncs, busy []time.Duration
	for n := range b.launches {
		time.Sleep(quiet)
		taken, err := b.Sync(5)
		if err != nil {
			return bench.Figure{}, err
		}
		time.Sleep(quiet)
		id, took, err := d.launch(ctx, image)
		if err == nil {
			err = d.await(ctx, id, "running")
		}
		if err != nil {
			return bench.Figure{}, fmt.Errorf("launch %d: %w", n+1, err)
		}
		accepts, syncs, busy = append(accepts, took), append(syncs, taken[0]), append(busy, taken[1:]...)
	}
	bench.Progress("accepted in %v, p90 %v; a sync took %v, p90 %v; without a pause %v", bench.Median(accepts), bench.Quantile(accepts, 0.9),
		bench.Median(syncs), bench.Quantile(syncs, 0.9), bench.Median(busy))
	return bench.RatioOfMedians(acceptFigure, accepts, syncs), nil
}
