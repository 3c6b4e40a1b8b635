package main

import (
	"context"
	"fmt"
	"time"
)

// syncsPerLaunch is how many syncs are timed beside each launch.
const syncsPerLaunch = 5

// acceptOverSync launches one instance after the other. Before each, while nothing is under way, the disk is timed.
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
	var accepts, syncs []time.Duration
	for n := range b.launches {
		taken, err := b.disk.sync(syncsPerLaunch)
		if err != nil {
			return figure{}, err
		}
		id, took, err := d.launch(ctx, image)
		if err == nil {
			err = d.await(ctx, id, "running")
		}
		if err != nil {
			return figure{}, fmt.Errorf("launch %d: %w", n+1, err)
		}
		accepts, syncs = append(accepts, took), append(syncs, taken...)
	}
	progress("accepted in %v, p90 %v; a sync took %v, p90 %v", median(accepts), quantile(accepts, 0.9), median(syncs), quantile(syncs, 0.9))
	return ratio(accepts, syncs, syncs), nil
}
