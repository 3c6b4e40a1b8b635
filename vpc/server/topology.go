package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// unusable are the ranges that no VPC can have: this network, loopback, link-local (the metadata service), multicast and
// reserved.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

// checkRange returns the masked range, or *vpc.RangeError.
func checkRange(kind vpc.Kind, p netip.Prefix) (netip.Prefix, error) {
	refuse := func(reason string) (netip.Prefix, error) {
		return p, &vpc.RangeError{Kind: kind, CIDR: p, Reason: reason}
	}
	if !p.IsValid() || !p.Addr().Is4() {
		return refuse("it is not an IPv4 range")
	}
	if p.Bits() < vpc.MinPrefixBits || p.Bits() > vpc.MaxPrefixBits {
		return refuse(fmt.Sprintf("its prefix must be of %d to %d bits", vpc.MinPrefixBits, vpc.MaxPrefixBits))
	}
	for _, u := range unusable {
		if u.Overlaps(p) {
			return refuse("it overlaps " + u.String())
		}
	}
	return p.Masked(), nil
}

// CreateVPC makes a VPC. See vpc.Service.
func (s *Service) CreateVPC(ctx context.Context, r vpc.CreateVPCRequest) (vpc.VPC, error) {
	cidr, err := checkRange(vpc.KindVPC, r.CIDR)
	if err != nil {
		return vpc.VPC{}, err
	}
	v, group := s.newVPC(r.Account, cidr)
	v.Tags = r.Tags
	if err := account.ValidateTags(string(v.ID), r.Tags); err != nil || r.DryRun {
		return vpc.VPC{}, err
	}
	var vni store.Slot
	result, err := s.transact(ctx, "create VPC", func(tx *store.Tx) error {
		d, err := s.defaults(ctx, tx, r.Account)
		if err != nil {
			return err
		}
		v.DHCPOptions = d.DHCPOptions
		vni = vpcrows.InsertVPC(tx, v, group)
		return nil
	})
	if err != nil {
		return vpc.VPC{}, err
	}
	v.VNI = uint32(result.Int(vni))
	return v.VPC, nil
}

// newVPC draws the ids of a VPC and of what is made with it.
func (s *Service) newVPC(a ids.Account, cidr netip.Prefix) (vpcrows.VPC, vpc.SecurityGroup) {
	random := s.env.Random
	v := vpcrows.VPC{MainAssociation: ids.New[ids.RouteTableAssociation](random), VPC: vpc.VPC{
		ID: ids.New[ids.VPC](random), Account: a, CIDR: cidr, CIDRID: ids.New[ids.VPCCIDR](random),
		MainRouteTable: ids.New[ids.RouteTable](random), DefaultACL: ids.New[ids.NetworkACL](random),
		DNSSupport: true, Created: s.now(),
	}}
	group := s.newGroup(vpc.CreateGroupRequest{Account: a, VPC: v.ID, Name: vpc.DefaultGroupName, Description: vpc.DefaultGroupDesc})
	group.Default = true
	fromMembers := vpc.RuleSpec{Protocol: vpc.AllProtocols, FromPort: vpc.AnyPort, ToPort: vpc.AnyPort, Peer: group.ID}
	group.Rules = append(group.Rules, s.newRule(group, false, fromMembers))
	v.DefaultGroup = group.ID
	return v, group
}

// defaults returns what the account got at its beginning, and makes its DHCP options if it has none yet.
func (s *Service) defaults(ctx context.Context, tx *store.Tx, a ids.Account) (vpcrows.Default, error) {
	d, err := vpcrows.GetDefault(ctx, tx, a)
	if err != nil || d.DHCPOptions != "" {
		return d, err
	}
	accountrows.ExpectAccount(tx, a)
	d.DHCPOptions = ids.New[ids.DHCPOptions](s.env.Random)
	vpcrows.InsertDHCP(tx, vpc.DHCPOptions{ID: d.DHCPOptions, Account: a, DomainName: s.region + ".compute.internal"})
	vpcrows.PutDefault(tx, a, d)
	return d, nil
}

// CreateDefault adds the default VPC to a transaction, unless the account had one before. It is what the accounts part
// calls for each new account.
func (s *Service) CreateDefault(ctx context.Context, tx *store.Tx, a ids.Account) error {
	d, err := s.defaults(ctx, tx, a)
	if err != nil || d.VPC != "" {
		return err
	}
	cidr := netip.MustParsePrefix(vpc.DefaultVPCCIDR)
	v, group := s.newVPC(a, cidr)
	v.Default, v.DNSHostnames, v.DHCPOptions = true, true, d.DHCPOptions
	vpcrows.InsertVPC(tx, v, group)
	for i, zone := range s.zones {
		if err := s.insertDefaultSubnet(ctx, tx, v, zone, i); err != nil {
			return err
		}
	}
	d.VPC = v.ID
	vpcrows.PutDefault(tx, a, d)
	return nil
}

// EnsureDefault returns the account's default VPC. See vpc.Service.
func (s *Service) EnsureDefault(ctx context.Context, a ids.Account) (vpc.VPC, error) {
	_, err := s.transact(ctx, "ensure default VPC", func(tx *store.Tx) error { return s.CreateDefault(ctx, tx, a) })
	if err != nil {
		return vpc.VPC{}, err
	}
	found, err := s.DescribeVPCs(ctx, a, nil, func(v *vpc.VPC) bool { return v.Default })
	if err != nil {
		return vpc.VPC{}, err
	}
	if len(found) == 0 {
		return vpc.VPC{}, vpc.ErrNoDefaultVPC
	}
	return found[0], nil
}

// DeleteVPC removes a VPC. See vpc.Service.
func (s *Service) DeleteVPC(ctx context.Context, a ids.Account, id ids.VPC) error {
	return s.inSteps(ctx, "delete VPC "+string(id), func(tx *store.Tx) (bool, error) {
		return vpcrows.DeleteVPC(ctx, tx, a, id)
	})
}

// inSteps repeats a transaction for as long as it says that there is more. Each step is whole in itself.
func (s *Service) inSteps(ctx context.Context, what string, fn func(tx *store.Tx) (more bool, err error)) error {
	for more := true; more; {
		_, err := s.transact(ctx, what, func(tx *store.Tx) (err error) {
			more, err = fn(tx)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DescribeVPCs returns VPCs. See vpc.Service.
func (s *Service) DescribeVPCs(ctx context.Context, a ids.Account, want []ids.VPC, match func(*vpc.VPC) bool) ([]vpc.VPC, error) {
	q := query[ids.VPC, vpcrows.VPC, vpc.VPC]{
		kind:  vpc.KindVPC,
		table: func(v *view) owned[ids.VPC, vpcrows.VPC] { return v.vpcs },
		show:  func(_ *view, r vpcrows.VPC) vpc.VPC { return s.showVPC(r) },
		id:    func(v *vpc.VPC) ids.VPC { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

func (s *Service) showVPC(r vpcrows.VPC) vpc.VPC {
	r.Tags = s.tags.Tags(r.Account, string(r.ID))
	return r.VPC
}

// ModifyVPC changes attributes. See vpc.Service.
func (s *Service) ModifyVPC(ctx context.Context, a ids.Account, id ids.VPC, change vpc.VPCChange) error {
	_, err := s.transact(ctx, "modify VPC "+string(id), func(tx *store.Tx) error {
		return vpcrows.UpdateVPC(ctx, tx, a, id, func(v *vpcrows.VPC) {
			set(&v.DNSSupport, change.DNSSupport)
			set(&v.DNSHostnames, change.DNSHostnames)
		})
	})
	return err
}

func set(field, value *bool) {
	if value != nil {
		*field = *value
	}
}

func (s *Service) newSubnet(a ids.Account, v ids.VPC, cidr netip.Prefix, zone string) vpcrows.Subnet {
	return vpcrows.Subnet{ACLAssociation: ids.New[ids.NetworkACLAssociation](s.env.Random), Subnet: vpc.Subnet{
		ID: ids.New[ids.Subnet](s.env.Random), Account: a, VPC: v, CIDR: cidr, Zone: zone, Created: s.now(),
	}}
}

// CreateSubnet makes a subnet. See vpc.Service.
func (s *Service) CreateSubnet(ctx context.Context, r vpc.CreateSubnetRequest) (vpc.Subnet, error) {
	cidr, err := checkRange(vpc.KindSubnet, r.CIDR)
	if err != nil {
		return vpc.Subnet{}, err
	}
	if r.Zone != "" && !slices.Contains(s.zones, r.Zone) {
		return vpc.Subnet{}, &vpc.InvalidError{Param: "AvailabilityZone", Value: r.Zone, Reason: fmt.Sprintf("the zones are %v", s.zones)}
	}
	subnet := s.newSubnet(r.Account, r.VPC, cidr, r.Zone)
	subnet.Tags = r.Tags
	if err := account.ValidateTags(string(subnet.ID), r.Tags); err != nil {
		return vpc.Subnet{}, err
	}
	if r.DryRun {
		_, err := s.DescribeVPCs(ctx, r.Account, []ids.VPC{r.VPC}, nil)
		return vpc.Subnet{}, err
	}
	var placed vpcrows.Subnet
	_, err = s.transact(ctx, "create subnet", func(tx *store.Tx) (err error) {
		placed, err = vpcrows.InsertSubnet(ctx, tx, subnet, s.zones)
		return err
	})
	if err != nil {
		return vpc.Subnet{}, err
	}
	placed.AvailableAddresses = usable(cidr)
	return placed.Subnet, nil
}

// usable counts the addresses of a range that interfaces can have.
func usable(cidr netip.Prefix) int { return 1<<(32-cidr.Bits()) - vpc.ReservedPerSubnet }

// DeleteSubnet removes a subnet. See vpc.Service.
func (s *Service) DeleteSubnet(ctx context.Context, a ids.Account, id ids.Subnet) error {
	_, err := s.transact(ctx, "delete subnet "+string(id), func(tx *store.Tx) error {
		return vpcrows.DeleteSubnet(ctx, tx, a, id)
	})
	return s.nameInterfaces(err, a, func(i *vpcrows.Interface) bool { return i.Subnet == id })
}

// nameInterfaces adds the interfaces that match to a *vpc.DependencyError that names nobody: the guard that failed only
// counts them.
func (s *Service) nameInterfaces(err error, a ids.Account, match func(*vpcrows.Interface) bool) error {
	var inUse *vpc.DependencyError
	if !errors.As(err, &inUse) || len(inUse.Dependents) > 0 {
		return err
	}
	named := *inUse
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	for id, i := range s.view.interfaces[a] {
		if len(named.Dependents) < vpc.MaxDependents && match(&i) {
			named.Dependents = append(named.Dependents, vpc.Dependent{Kind: vpc.KindInterface, ID: string(id)})
		}
	}
	return &named
}

// DescribeSubnets returns subnets. See vpc.Service.
func (s *Service) DescribeSubnets(ctx context.Context, a ids.Account, want []ids.Subnet, match func(*vpc.Subnet) bool) ([]vpc.Subnet, error) {
	q := query[ids.Subnet, vpcrows.Subnet, vpc.Subnet]{
		kind:  vpc.KindSubnet,
		table: func(v *view) owned[ids.Subnet, vpcrows.Subnet] { return v.subnets },
		show:  s.showSubnet,
		id:    func(v *vpc.Subnet) ids.Subnet { return v.ID },
	}
	return q.run(ctx, s, a, want, match)
}

func (s *Service) showSubnet(v *view, r vpcrows.Subnet) vpc.Subnet {
	r.AvailableAddresses = usable(r.CIDR) - v.taken[r.ID]
	r.Tags = s.tags.Tags(r.Account, string(r.ID))
	return r.Subnet
}

// ModifySubnet changes attributes. See vpc.Service.
func (s *Service) ModifySubnet(ctx context.Context, a ids.Account, id ids.Subnet, change vpc.SubnetChange) error {
	_, err := s.transact(ctx, "modify subnet "+string(id), func(tx *store.Tx) error {
		return vpcrows.UpdateSubnet(ctx, tx, a, id, func(subnet *vpcrows.Subnet) {
			set(&subnet.MapPublicIPOnLaunch, change.MapPublicIPOnLaunch)
		})
	})
	return err
}
