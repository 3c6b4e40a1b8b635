package server

import (
	"context"
	"errors"
	"slices"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
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

// verb applies one verb to all instances: in one transaction, or for a long list in several, after all were judged. An id
// that is given twice counts once.
func (s *Service) verb(ctx context.Context, a ids.Account, list []ids.Instance, v lifecycle.Verb, force bool) ([]compute.StateChange, error) {
	list, err := distinct(list)
	if err != nil {
		return nil, err
	}
	if len(list) > compute.MaxPerTransaction {
		if err := s.judge(ctx, a, list, v); err != nil {
			return nil, s.nameAllMissing(ctx, a, list, err)
		}
	}
	changes := make([]compute.StateChange, 0, len(list))
	for batch := range slices.Chunk(list, compute.MaxPerTransaction) {
		moved, err := s.move(ctx, a, batch, v, force)
		if err != nil {
			return nil, s.nameAllMissing(ctx, a, list, err)
		}
		changes = append(changes, moved...)
	}
	return changes, nil
}

// move applies a verb to a few instances in one transaction: all or none.
func (s *Service) move(ctx context.Context, a ids.Account, list []ids.Instance, v lifecycle.Verb, force bool) ([]compute.StateChange, error) {
	var changes []compute.StateChange
	err := s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error {
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
	return changes, err
}

// judge finds on one snapshot the first instance that may not move.
func (s *Service) judge(ctx context.Context, a ids.Account, list []ids.Instance, v lifecycle.Verb) error {
	m := s.moment()
	return s.db.View(ctx, func(r store.Reader) error {
		for _, id := range list {
			if _, _, err := m.Judge(ctx, r, a, id, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// distinct drops repeated ids and bounds the rest.
func distinct(list []ids.Instance) ([]ids.Instance, error) {
	var out []ids.Instance
	seen := make(map[ids.Instance]bool, len(list))
	for _, id := range list {
		if !seen[id] {
			seen[id] = true
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
	if len(c.Groups) > 0 {
		return s.regroup(ctx, a, id, c)
	}
	return s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error { return m.Modify(ctx, tx, a, id, c, nil) })
}

// regroup is Modify with groups. When they were edited meanwhile, they are resolved once more.
func (s *Service) regroup(ctx context.Context, a ids.Account, id ids.Instance, c compute.Attributes) error {
	if err := s.current(ctx); err != nil {
		return err
	}
	rows, err := s.visible(a, []ids.Instance{id})
	if err != nil {
		return err
	}
	for again := false; ; again = true {
		groups, err := s.options.Networks.Prepare(ctx, vpc.PrepareRequest{Account: a, Subnet: rows[0].Subnet, Groups: c.Groups, Retry: again})
		if err != nil {
			return err
		}
		err = s.transact(ctx, func(m *computerows.Moment, tx *store.Tx) error { return m.Modify(ctx, tx, a, id, c, &groups) })
		if again || !errors.Is(err, vpc.ErrStale) {
			return err
		}
	}
}

// DrainHost implements compute.Operator.
func (s *Service) DrainHost(ctx context.Context, id ids.Host, drain bool) error {
	return s.transact(ctx, func(_ *computerows.Moment, tx *store.Tx) error { return computerows.Drain(ctx, tx, id, drain) })
}
