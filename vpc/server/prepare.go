package server

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// releaseBatch bounds the interfaces of one transaction of ReleaseApplied.
const releaseBatch = 64

func isNotFound(err error) bool {
	var missing *vpc.NotFoundError
	return errors.As(err, &missing)
}

// Prepare resolves where an interface is to be attached. See vpc.Service.
//
// It trusts the view as it is, because the launch's transaction checks what it found, and waits for a newer one only
// when something is missing.
func (s *Service) Prepare(ctx context.Context, r vpc.PrepareRequest) (vpc.Prepared, error) {
	p, groups, err := s.resolve(r)
	if err != nil || r.Retry {
		if err := s.wait(ctx); err != nil {
			return vpc.Prepared{}, err
		}
		p, groups, err = s.resolve(r)
	}
	if err != nil {
		return vpc.Prepared{}, err
	}
	if r.DryRun {
		p.Identity.Groups = groups
		return p, cmp.Or(checkGroups(p.VPC.ID, groups), vpcrows.CheckAddress(p.Subnet, r.Address))
	}
	if p.Identity, err = s.identity(ctx, r.Account, p.VPC.ID, groups, r.Retry); err != nil {
		return vpc.Prepared{}, err
	}
	p.Names = s.names(r.Account, p.Identity.Groups)
	return p, nil
}

// resolve finds the subnet, its VPC and the sorted set of groups in the view.
func (s *Service) resolve(r vpc.PrepareRequest) (vpc.Prepared, []ids.SecurityGroup, error) {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	subnet, err := s.view.subnetFor(r)
	if err != nil {
		return vpc.Prepared{}, nil, err
	}
	of := s.view.vpcs[r.Account][subnet.VPC]
	groups := slices.Clone(r.Groups)
	for _, name := range r.GroupNames {
		id, found := s.view.groupNamed[of.ID][name]
		if !found {
			return vpc.Prepared{}, nil, &vpc.NotFoundError{Kind: vpc.KindGroupName, ID: name}
		}
		groups = append(groups, id)
	}
	if len(groups) == 0 {
		groups = []ids.SecurityGroup{of.DefaultGroup}
	}
	for _, id := range groups {
		if g, found := s.view.groups[r.Account][id]; !found || g.VPC != of.ID {
			return vpc.Prepared{}, nil, &vpc.NotFoundError{Kind: vpc.KindGroup, ID: string(id)}
		}
	}
	return vpc.Prepared{VPC: s.showVPC(of), Subnet: s.showSubnet(s.view, subnet)}, sortedSet(groups), nil
}

func sortedSet(groups []ids.SecurityGroup) []ids.SecurityGroup {
	return slices.Compact(slices.Sorted(slices.Values(groups)))
}

// subnetFor returns the subnet that a launch names, or the default one of its zone, or of the zone with most room.
func (v *view) subnetFor(r vpc.PrepareRequest) (vpcrows.Subnet, error) {
	if r.Subnet != "" {
		s, found := v.subnets[r.Account][r.Subnet]
		if !found {
			return s, &vpc.NotFoundError{Kind: vpc.KindSubnet, ID: string(r.Subnet)}
		}
		return s, nil
	}
	home, found := v.vpcs[r.Account][v.defaults[r.Account].VPC]
	if !found {
		return vpcrows.Subnet{}, vpc.ErrNoDefaultVPC
	}
	free := func(s vpcrows.Subnet) int { return usable(s.CIDR) - v.taken[s.ID] }
	candidates := slices.DeleteFunc(slices.Collect(maps.Values(v.subnetsOf[home.ID])), func(s vpcrows.Subnet) bool {
		return !s.Default || (r.Zone != "" && s.Zone != r.Zone)
	})
	if len(candidates) == 0 {
		return vpcrows.Subnet{}, &vpc.NotFoundError{Kind: vpc.KindDefaultSubnet, ID: r.Zone}
	}
	if k := slices.IndexFunc(candidates, func(s vpcrows.Subnet) bool { return s.CIDR.Contains(r.Address) }); k >= 0 {
		return candidates[k], nil
	}
	return slices.MinFunc(candidates, func(x, y vpcrows.Subnet) int {
		return cmp.Or(cmp.Compare(free(y), free(x)), cmp.Compare(x.Zone, y.Zone))
	}), nil
}

func (s *Service) names(a ids.Account, groups []ids.SecurityGroup) []string {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	out := make([]string, len(groups))
	for i, id := range groups {
		out[i] = s.view.groups[a][id].Name
	}
	return out
}

// PrepareIdentity interns a set of groups. See vpc.Service.
func (s *Service) PrepareIdentity(ctx context.Context, a ids.Account, v ids.VPC, groups []ids.SecurityGroup) (vpc.Identity, error) {
	return s.identity(ctx, a, v, sortedSet(groups), false)
}

// identity returns the identity of a sorted set from the view or, with fresh set or if it is not there, from the store.
func (s *Service) identity(ctx context.Context, a ids.Account, v ids.VPC, groups []ids.SecurityGroup, fresh bool) (vpc.Identity, error) {
	if err := checkGroups(v, groups); err != nil {
		return vpc.Identity{}, err
	}
	if known, found := s.known(a, v, groups); found && !fresh {
		return known, nil
	}
	s.interning.Lock()
	defer s.interning.Unlock()
	return s.intern(ctx, vpcrows.InternRequest{Account: a, VPC: v, Groups: groups, Max: s.maxIdentities})
}

func checkGroups(v ids.VPC, groups []ids.SecurityGroup) error {
	switch {
	case len(groups) > vpc.MaxGroupsPerInterface:
		return &vpc.LimitError{Limit: vpc.LimitGroupsPerInterface, ID: string(v), Max: vpc.MaxGroupsPerInterface}
	case len(groups) == 0:
		return &vpc.InvalidError{Param: "SecurityGroupId", Reason: "an identity needs a group"}
	}
	return nil
}

func (s *Service) known(a ids.Account, v ids.VPC, groups []ids.SecurityGroup) (vpc.Identity, bool) {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	i, found := s.view.identities[v][setOf(groups)]
	_, mine := s.view.vpcs[a][v]
	return i, found && mine
}

// ReleaseApplied releases what a host let go. See vpc.Service.
func (s *Service) ReleaseApplied(ctx context.Context, h ids.Host, applied uint64, failed []ids.Interface) ([]ids.Interface, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	var out []ids.Interface
	for batch := range slices.Chunk(s.releasable(h, applied, failed), releaseBatch) {
		_, err := s.transact(ctx, "release interfaces of "+string(h), func(tx *store.Tx) error {
			for _, i := range batch {
				if err := vpcrows.Release(ctx, tx, i.Account, i.ID); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return out, err
		}
		for _, i := range batch {
			out = append(out, i.ID)
		}
	}
	return out, nil
}

func (s *Service) releasable(h ids.Host, applied uint64, failed []ids.Interface) []vpcrows.Interface {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	var out []vpcrows.Interface
	for id, i := range s.view.releasing[h] {
		if i.ReleaseSeq <= applied && !slices.Contains(failed, id) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(x, y vpcrows.Interface) int { return cmp.Compare(x.ID, y.ID) })
	return out
}
