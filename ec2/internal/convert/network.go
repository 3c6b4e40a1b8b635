package convert

import (
	"net/netip"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/vpc"
)

// anywhere is the range of the rules in a default network ACL.
const anywhere = "0.0.0.0/0"

// The rule numbers of a default network ACL.
const (
	aclAllow = 100
	aclDeny  = 32767
)

// VPC converts a network.
func VPC(v vpc.VPC) ec2gen.Vpc {
	return ec2gen.Vpc{
		CidrBlock: new(v.CIDR.String()), DhcpOptionsId: text(v.DHCPOptions), State: new(ec2gen.VpcState("available")),
		VpcId: text(v.ID), OwnerId: text(v.Account), InstanceTenancy: new(ec2gen.TenancyDefault), IsDefault: new(v.Default),
		CidrBlockAssociationSet: []ec2gen.VpcCidrBlockAssociation{{
			AssociationId: text(v.CIDRID), CidrBlock: new(v.CIDR.String()),
			CidrBlockState: &ec2gen.VpcCidrBlockState{State: new(ec2gen.VpcCidrBlockStateCode("associated"))},
		}},
		Tags: Tags(v.Tags),
	}
}

// ZoneIDs are the ids of zones by name.
type ZoneIDs map[string]string

// Subnet converts a subnet.
func (z ZoneIDs) Subnet(s vpc.Subnet, region string) ec2gen.Subnet {
	return ec2gen.Subnet{
		AvailabilityZone: new(s.Zone), AvailabilityZoneId: present(z[s.Zone]), AvailableIpAddressCount: number(s.AvailableAddresses),
		CidrBlock: new(s.CIDR.String()), DefaultForAz: new(s.Default), MapPublicIpOnLaunch: new(s.MapPublicIPOnLaunch),
		MapCustomerOwnedIpOnLaunch: new(false), State: new(ec2gen.SubnetStateAvailable), SubnetId: text(s.ID), VpcId: text(s.VPC),
		OwnerId: text(s.Account), AssignIpv6AddressOnCreation: new(false), EnableDns64: new(false), Ipv6Native: new(false),
		SubnetArn: new("arn:aws:ec2:" + region + ":" + string(s.Account) + ":subnet/" + string(s.ID)),
		PrivateDnsNameOptionsOnLaunch: &ec2gen.PrivateDnsNameOptionsOnLaunch{
			HostnameType: new(ec2gen.HostnameTypeIpName), EnableResourceNameDnsARecord: new(false), EnableResourceNameDnsAAAARecord: new(false),
		},
		Tags: Tags(s.Tags),
	}
}

// InterfaceStatus is an interface's state in EC2's words: one whose host has not confirmed its end is detaching.
func InterfaceStatus(s vpc.InterfaceState) ec2gen.NetworkInterfaceStatus {
	if s == vpc.InterfaceReleasing {
		return ec2gen.NetworkInterfaceStatusDetaching
	}
	return ec2gen.NetworkInterfaceStatusInUse
}

// AttachmentStatus is the state of an interface's attachment.
func AttachmentStatus(s vpc.InterfaceState) ec2gen.AttachmentStatus {
	if s == vpc.InterfaceReleasing {
		return ec2gen.AttachmentStatusDetaching
	}
	return ec2gen.AttachmentStatusAttached
}

// Interface converts an interface as DescribeNetworkInterfaces shows it.
func (n GroupNames) Interface(i vpc.Interface) ec2gen.NetworkInterface {
	address := addressText(i.Address)
	return ec2gen.NetworkInterface{
		Attachment: &ec2gen.NetworkInterfaceAttachment{
			AttachTime: instant(i.Created), AttachmentId: text(i.Attachment), DeleteOnTermination: new(i.DeleteOnTermination),
			DeviceIndex: number(i.DeviceIndex), NetworkCardIndex: new(int32(0)), InstanceId: text(i.Instance), InstanceOwnerId: text(i.Account),
			Status: new(AttachmentStatus(i.State)),
		},
		AvailabilityZone: new(i.Zone), Description: new(i.Description), Groups: n.identifiers(i.Groups),
		InterfaceType: new(ec2gen.NetworkInterfaceTypeInterface), MacAddress: new(i.MAC.String()), NetworkInterfaceId: text(i.ID),
		OwnerId: text(i.Account), PrivateDnsName: present(i.PrivateDNSName), PrivateIpAddress: address,
		PrivateIpAddresses: []ec2gen.NetworkInterfacePrivateIpAddress{{Primary: new(true), PrivateDnsName: present(i.PrivateDNSName), PrivateIpAddress: address}},
		RequesterManaged:   new(false), SourceDestCheck: new(i.SourceDestCheck), Status: new(InterfaceStatus(i.State)),
		SubnetId: text(i.Subnet), TagSet: Tags(i.Tags), VpcId: text(i.VPC),
	}
}

// RouteTable converts a main route table.
func RouteTable(r vpc.RouteTable) ec2gen.RouteTable {
	return ec2gen.RouteTable{
		Associations: []ec2gen.RouteTableAssociation{{
			Main: new(true), RouteTableAssociationId: text(r.Association), RouteTableId: text(r.ID),
			AssociationState: &ec2gen.RouteTableAssociationState{State: new(ec2gen.RouteTableAssociationStateCodeAssociated)},
		}},
		Routes: []ec2gen.Route{{
			DestinationCidrBlock: new(r.Local.String()), GatewayId: new("local"),
			Origin: new(ec2gen.RouteOriginCreateRouteTable), State: new(ec2gen.RouteStateActive),
		}},
		RouteTableId: text(r.ID), VpcId: text(r.VPC), OwnerId: text(r.Account), Tags: Tags(r.Tags),
	}
}

// NetworkACL converts a default network ACL.
func NetworkACL(a vpc.NetworkACL) ec2gen.NetworkAcl {
	out := ec2gen.NetworkAcl{IsDefault: new(true), NetworkAclId: text(a.ID), VpcId: text(a.VPC), OwnerId: text(a.Account), Tags: Tags(a.Tags)}
	for _, association := range a.Associations {
		out.Associations = append(out.Associations, ec2gen.NetworkAclAssociation{
			NetworkAclAssociationId: text(association.ID), NetworkAclId: text(a.ID), SubnetId: text(association.Subnet),
		})
	}
	for _, egress := range []bool{true, false} {
		out.Entries = append(out.Entries, aclEntry(egress, aclAllow, ec2gen.RuleActionAllow), aclEntry(egress, aclDeny, ec2gen.RuleActionDeny))
	}
	return out
}

func aclEntry(egress bool, rule int, action ec2gen.RuleAction) ec2gen.NetworkAclEntry {
	return ec2gen.NetworkAclEntry{
		CidrBlock: new(anywhere), Egress: new(egress), Protocol: new(vpc.AllProtocols.String()), RuleAction: new(action), RuleNumber: number(rule),
	}
}

// Group converts a security group with its rules.
func Group(g vpc.SecurityGroup) ec2gen.SecurityGroup {
	return ec2gen.SecurityGroup{
		Description: new(g.Description), GroupName: new(g.Name), OwnerId: text(g.Account), GroupId: text(g.ID), VpcId: text(g.VPC), Tags: Tags(g.Tags),
		IpPermissions: permissions(g, false), IpPermissionsEgress: permissions(g, true),
	}
}

// permissions groups one direction's rules as EC2 does: one permission for each protocol and range of ports.
func permissions(g vpc.SecurityGroup, egress bool) []ec2gen.IpPermission {
	type ports struct {
		protocol vpc.Protocol
		from, to int
	}
	var list []ec2gen.IpPermission
	at := make(map[ports]int)
	for _, rule := range g.Rules {
		if rule.Egress != egress {
			continue
		}
		key := ports{rule.Protocol, rule.FromPort, rule.ToPort}
		i, found := at[key]
		if !found {
			i, at[key] = len(list), len(list)
			list = append(list, ec2gen.IpPermission{IpProtocol: new(rule.Protocol.String()), FromPort: fromPort(rule.RuleSpec), ToPort: toPort(rule.RuleSpec)})
		}
		addPeer(&list[i], rule)
	}
	return list
}

func addPeer(p *ec2gen.IpPermission, rule vpc.Rule) {
	if rule.CIDR.IsValid() {
		p.IpRanges = append(p.IpRanges, ec2gen.IpRange{CidrIp: new(rule.CIDR.String()), Description: present(rule.Description)})
		return
	}
	p.UserIdGroupPairs = append(p.UserIdGroupPairs, ec2gen.UserIdGroupPair{
		GroupId: text(rule.Peer), UserId: text(rule.Account), Description: present(rule.Description),
	})
}

// hasPorts tells the protocols whose ports (or ICMP types) EC2 shows in a permission.
func hasPorts(p vpc.Protocol) bool {
	return p == vpc.TCP || p == vpc.UDP || p == vpc.ICMP || p == vpc.ICMPv6
}

func fromPort(r vpc.RuleSpec) *int32 {
	if !hasPorts(r.Protocol) {
		return nil
	}
	return number(r.FromPort)
}

func toPort(r vpc.RuleSpec) *int32 {
	if !hasPorts(r.Protocol) {
		return nil
	}
	return number(r.ToPort)
}

// Rule converts a rule as DescribeSecurityGroupRules shows it: with ports of -1 where there are none.
func Rule(r vpc.Rule) ec2gen.SecurityGroupRule {
	out := ec2gen.SecurityGroupRule{
		SecurityGroupRuleId: text(r.ID), GroupId: text(r.Group), GroupOwnerId: text(r.Account), IsEgress: new(r.Egress),
		IpProtocol: new(r.Protocol.String()), FromPort: number(r.FromPort), ToPort: number(r.ToPort),
		Description: present(r.Description), Tags: Tags(r.Tags),
	}
	if r.CIDR.IsValid() {
		out.CidrIpv4 = new(r.CIDR.String())
	} else {
		out.ReferencedGroupInfo = &ec2gen.ReferencedSecurityGroup{GroupId: text(r.Peer), UserId: text(r.Account)}
	}
	return out
}

// addressText is empty for no address.
func addressText(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}
	return new(a.String())
}
