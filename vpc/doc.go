// Package vpc is the contract of the networks part: virtual private clouds, subnets, interfaces and security policy.
//
// It owns topology (VPC, subnet, main route table, default network ACL, DHCP options), the addresses of each subnet,
// security groups with their rules, and what hosts are told of all that: each VPC's document ("vpc/" and its id) with
// its rule sets, identities and mappings, and the interface items of the hosts' own documents.
//
// Invariants (package vpcrows recounts each; see its Invariants):
//   - An address belongs to at most one interface. A detached interface keeps its address, in state releasing, until its
//     host has confirmed that the interface is gone.
//   - Subnets of a VPC do not overlap, and lie within its range.
//   - A VPC's network identifier (VNI) is never used by another VPC, also after deletion.
//   - A group, subnet or VPC that something refers to cannot be deleted.
//   - A security identity, the number of a set of groups within one VPC, means another set only once every host that could
//     know it has confirmed that it is gone.
//   - An edit of rules happens whole or not at all.
//
// Deliberately absent: internet and NAT gateways, elastic addresses, peering, IPv6, custom routes, network ACLs and DHCP
// options (the default ones are shown), and any EC2 name or error code (the EC2 door maps the errors below).
//
// Start reading at Service; vpc/server implements it. vpc/vpcrows owns the rows and what a launch calls inside its own
// transaction: Attach, Move, Detach, Release.
package vpc
