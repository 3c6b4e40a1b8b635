package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

const (
	instancesPerHost = 400
	perSubnet        = 60_000 // of a /16's 65,531 addresses
	quota            = 1_000_000
	launchers        = 16
)

// fill launches instances into the world's account, a hundredth of them with a tag of their own.
func fill(ctx context.Context, w *computetest.World, n int) error {
	if err := w.Widen(ctx, quota); err != nil {
		return err
	}
	subnets := []ids.Subnet{w.Subnet}
	for i := 1; i*perSubnet < n; i++ {
		s, err := another(ctx, w, i)
		if err != nil {
			return err
		}
		subnets = append(subnets, s)
	}
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range launchers {
		group.Go(func() error {
			for {
				at := int(next.Add(compute.MaxPerRequest)) - compute.MaxPerRequest
				if at >= n {
					return nil
				}
				r := w.Request(min(compute.MaxPerRequest, n-at))
				r.Subnet = subnets[at/perSubnet]
				r.ClientToken = fmt.Sprint("fill-", at) // a launch that is asked for again is the same
				r.InstanceTags = map[string]string{"env": "bench", "batch": fmt.Sprint(at / 1000)}
				_, err := w.Compute().RunInstances(ctx, w.Account, r)
				for behind(err) { // it launches more than the machine follows
					_, err = w.Compute().RunInstances(ctx, w.Account, r)
				}
				if err != nil {
					return fmt.Errorf("launch instance %d: %w", at, err)
				}
			}
		})
	}
	return group.Wait()
}

// behind says that a client would ask again.
func behind(err error) bool {
	return errors.Is(err, compute.ErrBehind) || errors.Is(err, vpc.ErrBehind) || errors.Is(err, account.ErrBehind) || errors.Is(err, image.ErrBehind)
}

// settle waits until every instance runs. A cloud that still boots uses the processors that are to be measured.
func settle(ctx context.Context, w *computetest.World) error {
	pending := compute.Page{Limit: 1, Where: []compute.Condition{{Property: compute.ByState, Values: []string{compute.Pending.String()}}}}
	var failed error
	err := w.Await(ctx, func() bool {
		found, _, err := w.Compute().PageInstances(ctx, w.Account, pending)
		if !behind(err) {
			failed = err
		}
		return failed != nil || (err == nil && len(found) == 0)
	})
	return errors.Join(failed, err)
}

func another(ctx context.Context, w *computetest.World, n int) (ids.Subnet, error) {
	cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
	v, err := w.Networks.CreateVPC(ctx, vpc.CreateVPCRequest{Account: w.Account, CIDR: cidr})
	if err != nil {
		return "", err
	}
	s, err := w.Networks.CreateSubnet(ctx, vpc.CreateSubnetRequest{Account: w.Account, VPC: v.ID, CIDR: cidr, Zone: computetest.Zone})
	return s.ID, err
}
