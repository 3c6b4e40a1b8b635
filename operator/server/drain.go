package server

import (
	"context"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// maxRemaining is the model's bound of a list of instances.
const maxRemaining = 1000

// DrainHost keeps new instances off a host, or lets them on it again, and says what it still has.
func (a *api) DrainHost(ctx context.Context, in *operatorgen.DrainHostInput) (*operatorgen.DrainHostOutput, error) {
	h, err := a.host(ctx, in.HostId)
	if err != nil {
		return nil, err
	}
	operation := "ResumeHost"
	if in.Draining {
		operation = "DrainHost"
	}
	err = a.Compute.DrainHost(ctx, h.ID, in.Draining)
	a.audit(ctx, operation, string(h.ID), err)
	if err != nil {
		return nil, explain(err)
	}
	remaining, err := a.remaining(ctx, h.ID)
	if err != nil {
		return nil, explain(err)
	}
	out := &operatorgen.DrainHostOutput{HostId: string(h.ID), Draining: in.Draining, RemainingCount: int64(len(remaining))}
	for _, i := range remaining[:min(len(remaining), maxRemaining)] {
		out.Remaining = append(out.Remaining, convertInstance(i))
	}
	return out, nil
}

// remaining lists what a host still has, stopped instances included: their disks are there.
func (a *api) remaining(ctx context.Context, id ids.Host) ([]*compute.Instance, error) {
	all, err := a.Compute.AllInstances(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(i *compute.Instance) bool { return i.Host != id || i.State == compute.Terminated })
	slices.SortFunc(all, func(x, y *compute.Instance) int { return strings.Compare(string(x.ID), string(y.ID)) })
	return all, nil
}

// host finds a host by its id, or by a name that it alone has.
func (a *api) host(ctx context.Context, named string) (compute.Host, error) {
	hosts, err := a.Compute.Hosts(ctx)
	if err != nil {
		return compute.Host{}, explain(err)
	}
	var found []compute.Host
	for _, h := range hosts {
		if string(h.ID) == named {
			return h, nil
		}
		if h.Name == named {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return compute.Host{}, operatorgen.NewNotFound("host %s does not exist: `nimbrel hosts` lists ids and names", named)
	}
	return compute.Host{}, operatorgen.NewConflict("%d hosts are named %s: give the host's id, which `nimbrel hosts` shows", len(found), named)
}
