package server

import (
	"context"
	"fmt"
	"math"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// everything is the mark of a host that cannot run anything it was told: all ends are confirmed.
var everything = computerows.Applied{Instances: math.MaxUint64, Interfaces: math.MaxUint64}

// FenceHost implements compute.Operator. The raised epoch is committed before anything is freed: a host that returns in
// between stands down.
func (s *Service) FenceHost(ctx context.Context, id ids.Host, off bool) (freed int, err error) {
	if off && s.believed(id) {
		return 0, fmt.Errorf("fence host %s: %w", id, compute.ErrHostHeard)
	}
	err = s.transact(ctx, func(_ *computerows.Moment, tx *store.Tx) error { return computerows.Fence(ctx, tx, id) })
	if err != nil || !off {
		return 0, err
	}
	if err := s.current(ctx); err != nil {
		return 0, err
	}
	waiting := s.view.releasing(id, everything)
	if err := s.release(ctx, id, everything, nil); err != nil {
		return 0, fmt.Errorf("free what host %s had: %w", id, err)
	}
	return len(waiting), nil
}
