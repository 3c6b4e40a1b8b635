package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

const (
	instanceType = "nb1.tiny"
	callLimit    = time.Minute
	pollEvery    = 20 * time.Millisecond
	runningLimit = 2 * time.Minute
)

// door is a client of the EC2 API that remembers what it launched.
type door struct {
	*devcloud.API
	run *run
}

func openDoor(ctx context.Context, c *cloud) (*door, error) {
	api, err := c.API(ctx, callLimit)
	return &door{api, c.run}, err
}

// launch starts one instance in the default VPC and says how long the server took to accept it.
func (d *door) launch(ctx context.Context, image string) (id string, took time.Duration, err error) {
	var out devcloud.Launched
	took, err = d.Call(ctx, &out, "RunInstances", "ImageId", image, "InstanceType", instanceType, "MinCount", "1", "MaxCount", "1")
	if err != nil {
		return "", 0, err
	}
	if len(out.Instances) != 1 {
		return "", 0, fmt.Errorf("RunInstances: %d instances, want 1", len(out.Instances))
	}
	d.run.guests = append(d.run.guests, out.Instances[0].ID)
	return out.Instances[0].ID, took, nil
}

// await waits until an instance is in a state.
func (d *door) await(ctx context.Context, id, state string) error {
	return d.Await(ctx, id, state, pollEvery, runningLimit)
}

func (d *door) terminate(ctx context.Context, id string) error {
	if _, err := d.Call(ctx, &struct{}{}, "TerminateInstances", "InstanceId.1", id); err != nil {
		return err
	}
	return d.await(ctx, id, "terminated")
}
