package main

import (
	"context"
	"fmt"
	"time"
)

// quiet is how long nothing is asked of the cloud before each thing that is timed. A processor and a disk that were left
// alone answer later than busy ones, here a sync in twice the time, so a launch is paired with a sync after the same quiet.
const quiet = 20 * time.Millisecond

// acceptOverSync launches one instance after the other, each paired with one sync. Beside them it times syncs without a
// pause between them, for the record.
func (b *bench) acceptOverSync(ctx context.Context, c *cloud) (figure, error) {
	progress("launching %d instances on fake hosts", b.launches)
	if err := c.up(ctx, b.built); err != nil {
		return figure{}, err
	}
	d, err := openDoor(ctx, c)
	if err != nil {
		return figure{}, err
	}
	image, err := d.image(ctx)
	if err != nil {
		return figure{}, err
	}
	var accepts, syncs, busy []time.Duration
	for n := range b.launches {
		time.Sleep(quiet)
		taken, err := b.disk.sync(5)
		if err != nil {
			return figure{}, err
		}
		time.Sleep(quiet)
		id, took, err := d.launch(ctx, image)
		if err == nil {
			err = d.await(ctx, id, "running")
		}
		if err != nil {
			return figure{}, fmt.Errorf("launch %d: %w", n+1, err)
		}
		accepts, syncs, busy = append(accepts, took), append(syncs, taken[0]), append(busy, taken[1:]...)
	}
	progress("accepted in %v, p90 %v; a sync took %v, p90 %v; without a pause %v", median(accepts), quantile(accepts, 0.9),
		median(syncs), quantile(syncs, 0.9), median(busy))
	return ratio(accepts, syncs, syncs), nil
}
