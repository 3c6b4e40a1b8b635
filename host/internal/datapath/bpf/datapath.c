/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The programs on the three ways into a host's data path. Each ends in a redirect or a drop: no packet of a guest ever
 * enters the host's own network stack.
 */
#include "service.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void saw(__u64 *at)
{
	__u64 now = bpf_ktime_get_ns();
	if (now - *at > SECOND) /* a coarse clock keeps the line shared between CPUs clean */
		*at = now;
}

#define ARP_REQUEST 1
#define ARP_REPLY 2

struct arp_ipv4 {
	struct ethhdr ethernet;
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_address[4];
	__u8 target_mac[6];
	__u8 target_address[4];
} __attribute__((packed));

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	__u8 different = 0;
#pragma unroll
	for (int i = 0; i < 6; i++)
		different |= a[i] ^ b[i];
	return !different;
}

/* Every address but the guest's own is answered with the gateway's MAC. Its own is not: guests probe for duplicates. */
static __always_inline int answer_arp(struct __sk_buff *skb, struct port *port, __u32 slot, struct seen *seen)
{
	const __u8 gateway[6] = { GATEWAY_MAC };
	struct arp_ipv4 arp;
	__be32 sender, target;
	if (bpf_skb_load_bytes(skb, 0, &arp, sizeof(arp)))
		return drop(slot, DROP_MALFORMED);
	__builtin_memcpy(&sender, arp.sender_address, 4);
	__builtin_memcpy(&target, arp.target_address, 4);
	if (arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_bytes != 6 || arp.protocol_bytes != 4)
		return drop(slot, DROP_MALFORMED);
	if (!same_mac(arp.sender_mac, port->mac) || (sender && sender != port->address))
		return drop(slot, DROP_SPOOF_ARP);
	saw(&seen->arp_ns);
	if (arp.operation != bpf_htons(ARP_REQUEST) || target == port->address)
		return TC_ACT_SHOT;
	arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp.ethernet.h_dest, port->mac, 6);
	__builtin_memcpy(arp.ethernet.h_source, gateway, 6);
	__builtin_memcpy(arp.target_mac, port->mac, 6);
	__builtin_memcpy(arp.target_address, &sender, 4);
	__builtin_memcpy(arp.sender_mac, gateway, 6);
	__builtin_memcpy(arp.sender_address, &target, 4);
	if (bpf_skb_store_bytes(skb, 0, &arp, sizeof(arp), 0))
		return drop(slot, DROP_INTERNAL);
	return bpf_redirect(skb->ifindex, 0);
}

/* Sources that no interface can have: this network, loopback, link-local, multicast and beyond. */
static __always_inline int is_impossible_source(__be32 address)
{
	__u32 top = bpf_ntohl(address) >> 24;
	return top == 0 || top == 127 || top >= 224 || is_link_local(address);
}

static __always_inline int is_spoofed(struct packet *p, struct port *port)
{
	if (p->source == port->address)
		return 0;
	return (port->flags & PORT_SOURCE_CHECK) || is_impossible_source(p->source);
}

/* is_held tells that an interface of the VPC has the address. */
static __always_inline int is_held(__u32 vni, __be32 address)
{
	struct address_key key = { .vni = vni, .address = address };
	return bpf_map_lookup_elem(&locals, &key) || mapping_of(vni, address);
}

/* route takes a packet whose source is proved to its destination's port, or into the tunnel. */
static __always_inline int route(struct __sk_buff *skb, struct packet *p, struct port *port, __u32 slot)
{
	struct address_key key = { .vni = port->vni, .address = p->destination };
	__u16 identity, own = p->source == port->address ? port->identity : 0;
	__u64 mapping = 0;
	int reason;
	struct port *local = 0;
	/* A guest that forwards may send for who is outside of the VPC, never in another interface's name: a receiver would
	 * take it for that one when both are on this host. */
	if (p->source != port->address && is_held(port->vni, p->source))
		return drop(slot, DROP_SPOOF_IP);
	__u32 *to = bpf_map_lookup_elem(&locals, &key), local_slot = 0;
	if (to) {
		local_slot = *to;
		local = port_at(local_slot);
		if (!local)
			return drop(slot, DROP_NO_MAPPING);
		identity = local->identity;
	} else {
		mapping = mapping_of(port->vni, p->destination);
		if (!mapping)
			return drop(slot, DROP_NO_MAPPING);
		identity = MAPPING_IDENTITY(mapping);
	}
	if (!identity || !port->identity)
		return drop(slot, DROP_NO_IDENTITY);
	reason = pass(p, port, slot, DIR_OUT, identity);
	if (reason)
		return drop(slot, reason);
	count(slot, COUNT_TX_PACKETS, 1);
	count(slot, COUNT_TX_BYTES, skb->len);
	if (!local)
		return deliver_tunnel(skb, port, slot, underlay_of(MAPPING_HOST(mapping)));
	reason = pass(p, local, local_slot, DIR_IN, own);
	if (reason)
		return drop(local_slot, reason);
	return deliver_local(skb, local, local_slot);
}

SEC("tc")
int from_guest(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 *found = bpf_map_lookup_elem(&slots, &ifindex);
	if (!found)
		return drop(0, DROP_INTERNAL);
	__u32 slot = *found;
	struct port *port = port_at(slot);
	struct seen *seen = bpf_map_lookup_elem(&last_seen, &slot);
	struct ethhdr ethernet;
	if (!port || !seen || port->ifindex != ifindex)
		return drop(0, DROP_INTERNAL);
	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)))
		return drop(slot, DROP_MALFORMED);
	if (!same_mac(ethernet.h_source, port->mac))
		return drop(slot, DROP_SPOOF_MAC);
	if (skb->vlan_present)
		return drop(slot, DROP_PROTOCOL);
	if (ethernet.h_proto == bpf_htons(ETH_P_ARP))
		return answer_arp(skb, port, slot, seen);
	if (ethernet.h_proto != bpf_htons(ETH_P_IP))
		return drop(slot, DROP_PROTOCOL);

	struct packet p = {};
	int reason = read_packet(skb, &p);
	if (reason)
		return drop(slot, reason);
	if (is_dhcp(&p, port)) {
		saw(&seen->dhcp_ns);
		return to_service(skb, &p, port, slot, dhcp_alias(&p, port));
	}
	if (is_spoofed(&p, port))
		return drop(slot, DROP_SPOOF_IP);
	saw(&seen->ip_ns);
	int alias = service_alias(&p, port, slot);
	if (alias == REFUSED)
		return drop(slot, DROP_SERVICE);
	if (alias != NO_SERVICE)
		return p.source == port->address ? to_service(skb, &p, port, slot, alias) : drop(slot, DROP_SPOOF_IP);
	__u32 carried = wire_bytes(skb, &p);
	if (carried > port->mtu && !skb->gso_size && p.bytes <= port->mtu)
		return drop(slot, DROP_MALFORMED); /* a short packet with more behind it than padding */
	if (carried > port->mtu)
		return too_big(skb, &p, port, slot);
	return route(skb, &p, port, slot);
}

/* sender_identity is the identity of a tunnel packet's source, by this host's own mapping. A mapped source must come from
 * the host that holds it. An unmapped one (a guest that forwards for others) is nobody: only address blocks admit it. */
static __always_inline int sender_identity(struct packet *p, __u32 vni, __be32 outer, __u16 *identity)
{
	__u64 mapping = mapping_of(vni, p->source);
	*identity = 0;
	if (mapping) {
		*identity = MAPPING_IDENTITY(mapping);
		if (underlay_of(MAPPING_HOST(mapping)) != outer)
			return DROP_FORGED;
		return *identity ? 0 : DROP_NO_IDENTITY;
	}
	if (is_impossible_source(p->source) || !bpf_map_lookup_elem(&underlays, &outer))
		return DROP_FORGED;
	return 0;
}

SEC("tc")
int from_net(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct ethhdr ethernet;
	struct packet p = {};
	__u16 identity;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return drop(0, DROP_INTERNAL);
	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)))
		return drop(0, DROP_MALFORMED);
	if (ethernet.h_proto != bpf_htons(ETH_P_IP) || skb->vlan_present)
		return drop(0, DROP_PROTOCOL);
	int reason = read_packet(skb, &p);
	if (reason)
		return drop(0, reason);
	struct address_key to = { .vni = key.tunnel_id, .address = p.destination };
	__u32 *found = bpf_map_lookup_elem(&locals, &to);
	if (!found)
		return drop(0, DROP_NO_MAPPING);
	__u32 slot = *found;
	struct port *port = port_at(slot);
	if (!port)
		return drop(0, DROP_NO_MAPPING);
	if (p.source == port->address)
		return drop(slot, DROP_FORGED);
	reason = sender_identity(&p, key.tunnel_id, bpf_htonl(key.remote_ipv4), &identity);
	if (!reason)
		reason = pass(&p, port, slot, DIR_IN, identity);
	if (reason)
		return drop(slot, reason);
	return deliver_local(skb, port, slot);
}

SEC("tc")
int from_service(struct __sk_buff *skb)
{
	struct ethhdr ethernet;
	struct packet p = {};
	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)) || ethernet.h_proto != bpf_htons(ETH_P_IP))
		return TC_ACT_SHOT;
	int reason = read_packet(skb, &p);
	if (reason)
		return drop(0, reason);
	__u32 name = bpf_ntohl(p.destination) - SERVICE_BASE;
	__u32 slot = name & (MAX_PORTS - 1), alias = name >> SERVICE_ALIAS_SHIFT;
	__u32 generation = name >> SERVICE_GENERATION_SHIFT & (SERVICE_GENERATIONS - 1);
	struct port *port = port_at(slot);
	if (!port || generation != generation_of(port) || p.source != bpf_htonl(SERVICE_ADDR) || alias >= ALIASES ||
	    (p.flags & (FRAGMENT_FIRST | FRAGMENT_LATER)))
		return drop(0, DROP_SERVICE);
	__be32 from = p.source, to = p.destination;
	p.source = alias_address(port, alias);
	p.destination = port->address;
	if (is_refusal(skb, &p) || !may_answer(&p, port, slot))
		return drop(slot, DROP_SERVICE);
	int metadata = p.protocol == IPPROTO_TCP && p.source_port == bpf_htons(80);
	if (p.protocol == IPPROTO_UDP && p.source_port == bpf_htons(67) && alias == ALIAS_SERVICE)
		p.destination = 0xffffffff; /* the client has no address yet */
	if (rewrite_address(skb, &p, SOURCE_OFFSET, from, p.source) ||
	    rewrite_address(skb, &p, DESTINATION_OFFSET, to, p.destination) || (metadata && set_hops(skb, port->hops)))
		return drop(slot, DROP_INTERNAL);
	return deliver_local(skb, port, slot);
}

/* Stands behind the programs above on every hook of ours. It runs only when none of them is attached any more: then the
 * device is an ordinary one, and its frames must not reach the host. */
SEC("tc")
int drop_all(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_SHOT;
}
