package vpcrows

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
)

type vpcRow struct {
	ID              ids.VPC                   `cbor:"1,keyasint,omitempty"`
	Account         ids.Account               `cbor:"2,keyasint,omitempty"`
	CIDR            string                    `cbor:"3,keyasint,omitempty"`
	CIDRID          ids.VPCCIDR               `cbor:"4,keyasint,omitempty"`
	VNI             uint32                    `cbor:"5,keyasint,omitempty"`
	Default         bool                      `cbor:"6,keyasint,omitempty"`
	DHCPOptions     ids.DHCPOptions           `cbor:"7,keyasint,omitempty"`
	MainRouteTable  ids.RouteTable            `cbor:"8,keyasint,omitempty"`
	MainAssociation ids.RouteTableAssociation `cbor:"9,keyasint,omitempty"`
	DefaultACL      ids.NetworkACL            `cbor:"10,keyasint,omitempty"`
	DefaultGroup    ids.SecurityGroup         `cbor:"11,keyasint,omitempty"`
	NoDNSSupport    bool                      `cbor:"12,keyasint,omitempty"`
	DNSHostnames    bool                      `cbor:"13,keyasint,omitempty"`
	CreatedMs       int64                     `cbor:"14,keyasint,omitempty"`
}

const vpcRowVNI = 5

type subnetRow struct {
	ID             ids.Subnet                `cbor:"1,keyasint,omitempty"`
	Account        ids.Account               `cbor:"2,keyasint,omitempty"`
	VPC            ids.VPC                   `cbor:"3,keyasint,omitempty"`
	CIDR           string                    `cbor:"4,keyasint,omitempty"`
	Zone           string                    `cbor:"5,keyasint,omitempty"`
	Default        bool                      `cbor:"6,keyasint,omitempty"`
	MapPublicIP    bool                      `cbor:"7,keyasint,omitempty"`
	ACLAssociation ids.NetworkACLAssociation `cbor:"8,keyasint,omitempty"`
	CreatedMs      int64                     `cbor:"9,keyasint,omitempty"`
}

// subnetAtRow is what the check for overlaps reads.
type subnetAtRow struct {
	ID   ids.Subnet `cbor:"1,keyasint,omitempty"`
	CIDR string     `cbor:"2,keyasint,omitempty"`
	Zone string     `cbor:"3,keyasint,omitempty"`
}

type groupRow struct {
	ID          ids.SecurityGroup `cbor:"1,keyasint,omitempty"`
	Account     ids.Account       `cbor:"2,keyasint,omitempty"`
	VPC         ids.VPC           `cbor:"3,keyasint,omitempty"`
	Name        string            `cbor:"4,keyasint,omitempty"`
	Description string            `cbor:"5,keyasint,omitempty"`
	Default     bool              `cbor:"6,keyasint,omitempty"`
	CreatedMs   int64             `cbor:"7,keyasint,omitempty"`
}

type ruleRow struct {
	ID          ids.SecurityGroupRule `cbor:"1,keyasint,omitempty"`
	Account     ids.Account           `cbor:"2,keyasint,omitempty"`
	Group       ids.SecurityGroup     `cbor:"3,keyasint,omitempty"`
	Egress      bool                  `cbor:"4,keyasint,omitempty"`
	Protocol    int                   `cbor:"5,keyasint,omitempty"`
	FromPort    int                   `cbor:"6,keyasint,omitempty"`
	ToPort      int                   `cbor:"7,keyasint,omitempty"`
	CIDR        string                `cbor:"8,keyasint,omitempty"`
	Peer        ids.SecurityGroup     `cbor:"9,keyasint,omitempty"`
	Description string                `cbor:"10,keyasint,omitempty"`
}

type interfaceRow struct {
	ID                  ids.Interface           `cbor:"1,keyasint,omitempty"`
	Account             ids.Account             `cbor:"2,keyasint,omitempty"`
	VPC                 ids.VPC                 `cbor:"3,keyasint,omitempty"`
	VNI                 uint32                  `cbor:"4,keyasint,omitempty"`
	VPCCIDR             string                  `cbor:"5,keyasint,omitempty"`
	Subnet              ids.Subnet              `cbor:"6,keyasint,omitempty"`
	SubnetCIDR          string                  `cbor:"7,keyasint,omitempty"`
	Zone                string                  `cbor:"8,keyasint,omitempty"`
	Offset              uint64                  `cbor:"9,keyasint,omitempty"` // of the address in the subnet
	MAC                 [6]byte                 `cbor:"10,keyasint,omitempty"`
	Groups              []ids.SecurityGroup     `cbor:"11,keyasint,omitempty"`
	Identity            uint16                  `cbor:"12,keyasint,omitempty"`
	State               vpc.InterfaceState      `cbor:"13,keyasint,omitempty"`
	Instance            ids.Instance            `cbor:"14,keyasint,omitempty"`
	Host                ids.Host                `cbor:"15,keyasint,omitempty"`
	Attachment          ids.InterfaceAttachment `cbor:"16,keyasint,omitempty"`
	DeviceIndex         int                     `cbor:"17,keyasint,omitempty"`
	DeleteOnTermination bool                    `cbor:"18,keyasint,omitempty"`
	SourceDestCheck     bool                    `cbor:"19,keyasint,omitempty"`
	Description         string                  `cbor:"20,keyasint,omitempty"`
	CreatedMs           int64                   `cbor:"21,keyasint,omitempty"`
	// ReleaseSeq is the sequence of the interfaces section of the host's document at which a releasing interface left it.
	ReleaseSeq uint64 `cbor:"22,keyasint,omitempty"`
}

const (
	interfaceRowOffset     = 9
	interfaceRowHost       = 15
	interfaceRowReleaseSeq = 22
)

type identityRow struct {
	VPC    ids.VPC             `cbor:"1,keyasint,omitempty"`
	Number uint16              `cbor:"2,keyasint,omitempty"`
	Groups []ids.SecurityGroup `cbor:"3,keyasint,omitempty"`
}

// retiredRow says what the VPC's followers must have applied before the number means another set. The sequence of the
// identities section at which it left is in the key.
type retiredRow struct {
	MappingsSeq uint64 `cbor:"1,keyasint"` // the section's at that moment: no mapping had the number any more
}

const retiredRowMappingsSeq = 1

type dhcpRow struct {
	ID         ids.DHCPOptions `cbor:"1,keyasint,omitempty"`
	Account    ids.Account     `cbor:"2,keyasint,omitempty"`
	DomainName string          `cbor:"3,keyasint,omitempty"`
}

type defaultRow struct {
	Account     ids.Account     `cbor:"1,keyasint,omitempty"`
	DHCPOptions ids.DHCPOptions `cbor:"2,keyasint,omitempty"`
	VPC         ids.VPC         `cbor:"3,keyasint,omitempty"` // kept when that VPC is deleted: it is not made again
}

// VPC is a VPC with what is stored of its route table.
type VPC struct {
	vpc.VPC
	MainAssociation ids.RouteTableAssociation
}

// Subnet is a subnet with its association to the network ACL.
type Subnet struct {
	vpc.Subnet
	ACLAssociation ids.NetworkACLAssociation
}

// Interface is an interface with what only this part and compute need.
type Interface struct {
	vpc.Interface
	Offset uint64 // of Address in the subnet
	// ReleaseSeq is set in state releasing: once the host has applied its interfaces section up to it, Release may follow.
	ReleaseSeq uint64
}

// Default is what an account got at its beginning.
type Default struct {
	VPC         ids.VPC // empty before the default VPC is made; may be deleted since
	DHCPOptions ids.DHCPOptions
}

func decode[T any](v store.Value) (T, error) {
	r, err := row.Decode[T](v.Bytes)
	if err != nil {
		return r, fmt.Errorf("decode vpc row: %w", err)
	}
	return r, nil
}

// parseCIDR reads a range of a row; this package wrote it.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("read range of row: %w", err)
	}
	return p, nil
}

func fromMs(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// DecodeVPC reads a row of FamilyVPC.
func DecodeVPC(v store.Value) (VPC, error) {
	r, err := decode[vpcRow](v)
	if err != nil {
		return VPC{}, err
	}
	cidr, err := parseCIDR(r.CIDR)
	return VPC{MainAssociation: r.MainAssociation, VPC: vpc.VPC{
		ID: r.ID, Account: r.Account, CIDR: cidr, CIDRID: r.CIDRID, VNI: r.VNI, Default: r.Default,
		DHCPOptions: r.DHCPOptions, MainRouteTable: r.MainRouteTable, DefaultACL: r.DefaultACL,
		DefaultGroup: r.DefaultGroup, DNSSupport: !r.NoDNSSupport, DNSHostnames: r.DNSHostnames, Created: fromMs(r.CreatedMs),
	}}, err
}

func encodeVPC(v VPC) vpcRow {
	return vpcRow{
		ID: v.ID, Account: v.Account, CIDR: v.CIDR.String(), CIDRID: v.CIDRID, VNI: v.VNI, Default: v.Default,
		DHCPOptions: v.DHCPOptions, MainRouteTable: v.MainRouteTable, MainAssociation: v.MainAssociation, DefaultACL: v.DefaultACL,
		DefaultGroup: v.DefaultGroup, NoDNSSupport: !v.DNSSupport, DNSHostnames: v.DNSHostnames, CreatedMs: v.Created.UnixMilli(),
	}
}

// DecodeSubnet reads a row of FamilySubnet.
func DecodeSubnet(v store.Value) (Subnet, error) {
	r, err := decode[subnetRow](v)
	if err != nil {
		return Subnet{}, err
	}
	cidr, err := parseCIDR(r.CIDR)
	return Subnet{ACLAssociation: r.ACLAssociation, Subnet: vpc.Subnet{
		ID: r.ID, Account: r.Account, VPC: r.VPC, CIDR: cidr, Zone: r.Zone, Default: r.Default,
		MapPublicIPOnLaunch: r.MapPublicIP, Created: fromMs(r.CreatedMs),
	}}, err
}

func encodeSubnet(s Subnet) subnetRow {
	return subnetRow{
		ID: s.ID, Account: s.Account, VPC: s.VPC, CIDR: s.CIDR.String(), Zone: s.Zone, Default: s.Default,
		MapPublicIP: s.MapPublicIPOnLaunch, ACLAssociation: s.ACLAssociation, CreatedMs: s.Created.UnixMilli(),
	}
}

// DecodeGroup reads a row of FamilyGroup. Rules are not in it.
func DecodeGroup(v store.Value) (vpc.SecurityGroup, error) {
	r, err := decode[groupRow](v)
	return vpc.SecurityGroup{
		ID: r.ID, Account: r.Account, VPC: r.VPC, Name: r.Name, Description: r.Description, Default: r.Default,
		Created: fromMs(r.CreatedMs),
	}, err
}

func encodeGroup(g vpc.SecurityGroup) groupRow {
	return groupRow{
		ID: g.ID, Account: g.Account, VPC: g.VPC, Name: g.Name, Description: g.Description, Default: g.Default,
		CreatedMs: g.Created.UnixMilli(),
	}
}

// DecodeRule reads a row of FamilyRule.
func DecodeRule(v store.Value) (vpc.Rule, error) {
	r, err := decode[ruleRow](v)
	if err != nil {
		return vpc.Rule{}, err
	}
	spec := vpc.RuleSpec{
		Protocol: vpc.Protocol(r.Protocol), FromPort: r.FromPort, ToPort: r.ToPort, Peer: r.Peer, Description: r.Description,
	}
	if r.CIDR != "" {
		spec.CIDR, err = parseCIDR(r.CIDR)
	}
	return vpc.Rule{ID: r.ID, Account: r.Account, Group: r.Group, Egress: r.Egress, RuleSpec: spec}, err
}

func encodeRule(r vpc.Rule) ruleRow {
	out := ruleRow{
		ID: r.ID, Account: r.Account, Group: r.Group, Egress: r.Egress, Protocol: int(r.Protocol),
		FromPort: r.FromPort, ToPort: r.ToPort, Peer: r.Peer, Description: r.Description,
	}
	if r.CIDR.IsValid() {
		out.CIDR = r.CIDR.String()
	}
	return out
}

// DecodeInterface reads a row of FamilyInterface. The private DNS name needs a region and is not in it.
func DecodeInterface(v store.Value) (Interface, error) {
	r, err := decode[interfaceRow](v)
	if err != nil {
		return Interface{}, err
	}
	address, err := r.hostInterface().Address()
	return Interface{Offset: r.Offset, ReleaseSeq: r.ReleaseSeq, Interface: vpc.Interface{
		ID: r.ID, Account: r.Account, VPC: r.VPC, Subnet: r.Subnet, Zone: r.Zone, Address: address, MAC: r.MAC,
		Groups: r.Groups, Identity: r.Identity, State: r.State, Instance: r.Instance, Host: r.Host, Attachment: r.Attachment,
		DeviceIndex: r.DeviceIndex, DeleteOnTermination: r.DeleteOnTermination, SourceDestCheck: r.SourceDestCheck,
		Description: r.Description, Created: fromMs(r.CreatedMs),
	}}, err
}

// hostInterface is what the interface's host is told.
func (r *interfaceRow) hostInterface() *host.Interface {
	return &host.Interface{
		ID: r.ID, Instance: r.Instance, Account: r.Account, VPC: r.VPC, Subnet: r.Subnet, VNI: r.VNI, MAC: r.MAC,
		SubnetCIDR: r.SubnetCIDR, AddressOffset: r.Offset, VPCCIDRs: []string{r.VPCCIDR}, Identity: r.Identity,
		Groups: r.Groups, DeviceIndex: r.DeviceIndex, SourceDestCheck: r.SourceDestCheck, Attachment: r.Attachment,
	}
}

// mapping is what every host of the VPC is told.
func (r *interfaceRow) mapping() *host.Mapping {
	return &host.Mapping{
		Interface: r.ID, SubnetCIDR: r.SubnetCIDR, AddressOffset: r.Offset, MAC: r.MAC, Host: r.Host,
		Identity: r.Identity, Instance: r.Instance, VNI: r.VNI,
	}
}

// Numbers of the fields of host.Interface and host.Mapping that are known only at commit.
const (
	hostInterfaceOffset = 9
	mappingOffset       = 3
	mappingHost         = 5
)

// DecodeIdentity reads a row of FamilyIdentity.
func DecodeIdentity(v store.Value) (vpc.Identity, error) {
	r, err := decode[identityRow](v)
	return vpc.Identity{VPC: r.VPC, Number: r.Number, Groups: r.Groups}, err
}

// DecodeDHCP reads a row of FamilyDHCP.
func DecodeDHCP(v store.Value) (vpc.DHCPOptions, error) {
	r, err := decode[dhcpRow](v)
	return vpc.DHCPOptions{ID: r.ID, Account: r.Account, DomainName: r.DomainName}, err
}

// DecodeDefault reads a row of FamilyDefault.
func DecodeDefault(v store.Value) (Default, error) {
	r, err := decode[defaultRow](v)
	return Default{VPC: r.VPC, DHCPOptions: r.DHCPOptions}, err
}

// firstAddress is a range's first address as a number, whose order is the order of addresses.
func firstAddress(p netip.Prefix) uint64 {
	b := p.Masked().Addr().As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}
