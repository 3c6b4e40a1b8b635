package server

import (
	"context"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// FenceHost gives a host up, and says what it still has.
func (a *api) FenceHost(ctx context.Context, in *operatorgen.FenceHostInput) (*operatorgen.FenceHostOutput, error) {
	h, err := a.host(ctx, in.HostId)
	if err != nil {
		return nil, err
	}
	operation := "FenceHost"
	if in.Off {
		operation = "FenceHostThatIsOff"
	}
	freed, err := a.Compute.FenceHost(ctx, h.ID, in.Off)
	a.audit(ctx, operation, string(h.ID), err)
	if err != nil {
		return nil, explain(err)
	}
	remaining, err := a.remaining(ctx, h.ID)
	if err != nil {
		return nil, explain(err)
	}
	out := &operatorgen.FenceHostOutput{HostId: string(h.ID), Freed: int64(freed), RemainingCount: int64(len(remaining))}
	for _, i := range remaining[:min(len(remaining), maxRemaining)] {
		out.Remaining = append(out.Remaining, convertInstance(i))
	}
	return out, nil
}
