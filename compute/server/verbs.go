package server

import (
	"context"
	"slices"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// StartInstances implements compute.Lifecycle.
func (s *Service) StartInstances(ctx context.Context, a ids.Account, list []ids.Instance) ([]compute.StateChange, error) {
	return s.verb(ctx, a, list, lifecycle.Start, false)
}

// StopInstances implements compute.Lifecycle.
func (s *Service) StopInstances(ctx context.Context, a ids.Account, list []ids.Instance, force bool) ([]compute.StateChange, error) {
	return s.verb(ctx, a, list, lifecycle.Stop, force)
}

// RebootInstances implements compute.Lifecycle.
func (s *Service) RebootInstances(ctx context.Context, a ids.Account, list []ids.Instance) error {
	_, err := s.verb(ctx, a, list, lifecycle.Reboot, false)
	return err
}

// TerminateInstances implements compute.Lifecycle.
func (s *Service) TerminateInstances(ctx context.Context, a ids.Account, list []ids.Instance) ([]compute.StateChange, error) {
	return s.verb(ctx, a, list, lifecycle.Terminate, false)
}

// verb applies one verb to all instances in one transaction. An id that is given twice counts once.
func (s *Service) verb(ctx context.Context, a ids.Account, list []ids.Instance, v lifecycle.Verb, force bool) ([]compute.StateChange, error) {
	list, err := distinct(list)
	if err != nil {
		return nil, err
	}
	var changes []compute.StateChange
	err = s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error {
		changes = make([]compute.StateChange, 0, len(list))
		for _, id := range list {
			change, err := m.Verb(ctx, tx, a, id, v, force)
			if err != nil {
				return err
			}
			changes = append(changes, change)
		}
		return nil
	})
	if err != nil {
		return nil, s.nameAllMissing(ctx, a, list, err)
	}
	return changes, nil
}

// distinct drops repeated ids and bounds the rest.
func distinct(list []ids.Instance) ([]ids.Instance, error) {
	var out []ids.Instance
	for _, id := range list {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
		if len(out) > compute.MaxIDsPerRequest {
			return nil, &compute.RequestError{Parameter: "InstanceId", Value: string(id),
				Reason: "one request names at most " + itoa(compute.MaxIDsPerRequest) + " instances; send several"}
		}
	}
	return out, nil
}

// ModifyInstanceAttributes implements compute.Lifecycle.
func (s *Service) ModifyInstanceAttributes(ctx context.Context, a ids.Account, id ids.Instance, c compute.Attributes) error {
	if c.UserData != nil && len(*c.UserData) > compute.MaxUserDataBytes {
		return &compute.RequestError{Parameter: "UserData", Value: itoa(len(*c.UserData)) + " bytes", Reason: "it is limited to 16384 bytes before encoding"}
	}
	if c.Metadata != nil && (c.Metadata.HopLimit < 0 || c.Metadata.HopLimit > 64) {
		return &compute.RequestError{Parameter: "HttpPutResponseHopLimit", Value: itoa(c.Metadata.HopLimit), Reason: "it is 1 to 64"}
	}
	return s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error { return m.Modify(ctx, tx, a, id, c) })
}

// DrainHost implements compute.Operator.
func (s *Service) DrainHost(ctx context.Context, id ids.Host, drain bool) error {
	return s.transact(ctx, func(_ *computerows.Moment, tx *store.Tx) error { return computerows.Drain(ctx, tx, id, drain) })
}
