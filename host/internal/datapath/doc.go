// Package datapath is a host's virtual network: kernel programs on every guest's tap and on one VXLAN device, and the
// tables that they read.
//
// A host has three network namespaces. The underlay's has the host's address and is not ours. The data path's has no
// address and forwards nothing: it holds the taps, the VXLAN device (made beside the underlay and moved in, so that its
// socket stays there) and one end of a pair of devices. The service namespace holds the other end with 169.254.169.254
// and nothing else: the metadata, DHCP, DNS and time servers listen there, and the agent dials guests from there.
//
// Invariants:
//   - A frame that leaves a tap ends in a redirect or a drop. None enters a host's own stack, agent or no agent: behind
//     our program every hook has one that drops all, and no device has the gateway's MAC.
//   - Who sent a packet is known from the port it came out of, or from this host's own mapping of (VPC, source address),
//     whose host must be the tunnel's other end. It is never read from the packet.
//   - Identity and policy are published before the mapping that uses them and withdrawn after it. What is unknown is
//     denied.
//   - Maps and links are pinned: the data path runs on while no agent does, and Open takes it over without losing a
//     packet. There is exactly one program of ours on each hook.
//   - A packet that does not fit the underlay is answered, never cut silently.
//   - Each port has flow and fragment tables of its own: no guest fills another's. Its service address carries the
//     generation of its slot: what servers and the agent send to a closed port reaches nobody.
//
// Lock order: Datapath.mutex is the only lock.
//
// Deliberately absent: IPv6, internet gateways and NAT, network ACLs, rate limits, load on demand of large VPCs, and the
// servers themselves (host/internal/services).
//
// Start reading at Open and Apply; bpf/datapath.c holds the programs, bpf/layout.h what both sides share.
package datapath

//go:generate go run ./bpf/compile
