/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Service path: DHCP, metadata, DNS and time between a guest and the servers of its host.
 *
 * The servers are ordinary sockets on 169.254.169.254 in a namespace of their own. What a guest sends to a service gets
 * a source of 100.64.0.0/10 (see SERVICE_BASE): the servers tell guests apart by the peer address, which the guest
 * cannot choose, and equal guest addresses of different VPCs do not meet. The agent reaches a guest by the same path.
 */
#ifndef SERVICE_H
#define SERVICE_H

#include "deliver.h"

#define NO_SERVICE -1
#define REFUSED -2

static __always_inline int is_link_local(__be32 address)
{
	return (address & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
}

static __always_inline int resolver_alias(struct packet *p, struct port *port)
{
	if (p->destination_port != bpf_htons(53) || (p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_TCP))
		return NO_SERVICE;
	if (p->destination == bpf_htonl(RESOLVER_ADDR))
		return ALIAS_RESOLVER;
	if (p->destination == (port->subnet | bpf_htonl(2)))
		return ALIAS_SUBNET_RESOLVER;
	return p->destination == port->vpc_resolver ? ALIAS_VPC_RESOLVER : NO_SERVICE;
}

static __always_inline int is_dhcp(struct packet *p, struct port *port)
{
	if (p->protocol != IPPROTO_UDP || p->destination_port != bpf_htons(67) || p->source_port != bpf_htons(68))
		return 0;
	if (p->source && p->source != port->address)
		return 0;
	return p->destination == 0xffffffff || p->destination == bpf_htonl(SERVICE_ADDR) ||
	       p->destination == (port->subnet | bpf_htonl(1));
}

/* dhcp_alias keeps apart who has an address and who does not: a client that renews listens on its own address alone. */
static __always_inline int dhcp_alias(struct packet *p, struct port *port)
{
	if (!p->source)
		return ALIAS_SERVICE;
	return p->destination == (port->subnet | bpf_htonl(1)) ? ALIAS_GATEWAY : ALIAS_RENEWAL;
}

/* service_alias says which service a packet asks for: an alias, NO_SERVICE, or REFUSED. */
static __always_inline int service_alias(struct packet *p, struct port *port, __u32 slot)
{
	int alias = resolver_alias(p, port);
	if (alias != NO_SERVICE)
		return alias;
	if (!is_link_local(p->destination))
		return NO_SERVICE;
	if (p->destination == bpf_htonl(CLOCK_ADDR) && p->protocol == IPPROTO_UDP && p->destination_port == bpf_htons(123))
		return ALIAS_CLOCK;
	if (p->destination != bpf_htonl(SERVICE_ADDR) || p->protocol != IPPROTO_TCP)
		return REFUSED;
	if (p->destination_port == bpf_htons(80))
		return ALIAS_SERVICE;
	struct flow_key key = { .slot = slot, .epoch = port->epoch }; /* answers to what the agent dialled */
	struct flow_tables tables;
	flow_key_of(&key, p, DIR_OUT);
	if (!flow_tables_of(&tables, slot))
		return REFUSED;
	return known_flow(&tables, &key, p, DIR_OUT, bpf_ktime_get_ns()) ? ALIAS_SERVICE : REFUSED;
}

static __always_inline __be32 alias_address(struct port *port, __u32 alias)
{
	switch (alias) {
	case ALIAS_RESOLVER:
		return bpf_htonl(RESOLVER_ADDR);
	case ALIAS_SUBNET_RESOLVER:
		return port->subnet | bpf_htonl(2);
	case ALIAS_VPC_RESOLVER:
		return port->vpc_resolver;
	case ALIAS_CLOCK:
		return bpf_htonl(CLOCK_ADDR);
	case ALIAS_GATEWAY:
		return port->subnet | bpf_htonl(1);
	}
	return bpf_htonl(SERVICE_ADDR);
}

#define SOURCE_OFFSET (ETH_HLEN + 12)
#define DESTINATION_OFFSET (ETH_HLEN + 16)

/* The pseudo-header flag is needed although nothing breaks without it between devices that offload checksums: a guest
 * without a vnet header does check. */
static __always_inline int rewrite_address(struct __sk_buff *skb, struct packet *p, __u32 offset, __be32 from, __be32 to)
{
	int udp = p->protocol == IPPROTO_UDP;
	__u32 checksum = ETH_HLEN + p->header_bytes + (udp ? 6 : 16);
	__u64 flags = BPF_F_PSEUDO_HDR | 4 | (udp ? BPF_F_MARK_MANGLED_0 : 0);
	return bpf_l4_csum_replace(skb, checksum, from, to, flags) ||
	       bpf_l3_csum_replace(skb, ETH_HLEN + 10, from, to, 4) ||
	       bpf_skb_store_bytes(skb, offset, &to, sizeof(to), 0);
}

static __always_inline __u32 generation_of(struct port *port)
{
	return port->epoch & (SERVICE_GENERATIONS - 1);
}

static __always_inline int to_service(struct __sk_buff *skb, struct packet *p, struct port *port, __u32 slot, __u32 alias)
{
	__u32 zero = 0, name = SERVICE_BASE | alias << SERVICE_ALIAS_SHIFT | generation_of(port) << SERVICE_GENERATION_SHIFT | slot;
	__u8 macs[12] = { [6] = GATEWAY_MAC };
	struct config *config_now = bpf_map_lookup_elem(&config, &zero);
	if (!config_now)
		return drop(slot, DROP_INTERNAL);
	if (p->flags & (FRAGMENT_FIRST | FRAGMENT_LATER))
		return drop(slot, DROP_FRAGMENT);
	if (rewrite_address(skb, p, SOURCE_OFFSET, p->source, bpf_htonl(name)) ||
	    rewrite_address(skb, p, DESTINATION_OFFSET, p->destination, bpf_htonl(SERVICE_ADDR)))
		return drop(slot, DROP_INTERNAL);
	__builtin_memcpy(macs, config_now->service_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(slot, DROP_INTERNAL);
	count(slot, COUNT_SERVICE, 1);
	return bpf_redirect(config_now->service_ifindex, 0);
}

/* A server that is not there (the agent restarts) answers a SYN with a reset whose sequence is 0. Guests do not get it:
 * their next SYN finds the new agent, and nobody falls through to "no credentials". */
static __always_inline int is_refusal(struct __sk_buff *skb, struct packet *p)
{
	__u32 sequence;
	if (p->protocol != IPPROTO_TCP || !(p->tcp_flags & TCP_RST))
		return 0;
	return bpf_skb_load_bytes(skb, ETH_HLEN + p->header_bytes + 4, &sequence, 4) || !sequence;
}

/* may_answer is 1 for what a server sends. Other TCP is the agent dialling a guest, and its flow is noted. */
static __always_inline int may_answer(struct packet *p, struct port *port, __u32 slot)
{
	__u16 from = bpf_ntohs(p->source_port);
	if (p->protocol == IPPROTO_UDP)
		return from == 53 || from == 67 || from == 123;
	if (p->protocol != IPPROTO_TCP)
		return 0;
	if (from == 53 || from == 80)
		return 1;
	struct flow_key key = { .slot = slot, .epoch = port->epoch };
	struct flow_tables tables;
	__u64 now = bpf_ktime_get_ns();
	flow_key_of(&key, p, DIR_IN);
	if (!flow_tables_of(&tables, slot))
		return 0;
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		if (!known_flow(&tables, &key, p, DIR_IN, now))
			new_flow(&tables, &key, p, DIR_IN, now);
		return 1;
	}
	return known_flow(&tables, &key, p, DIR_IN, now);
}

static __always_inline int set_hops(struct __sk_buff *skb, __u8 hops)
{
	__u8 word[2];
	__u16 before, after;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, word, 2))
		return 1;
	__builtin_memcpy(&before, word, 2);
	word[0] = hops;
	__builtin_memcpy(&after, word, 2);
	return bpf_l3_csum_replace(skb, ETH_HLEN + 10, before, after, 2) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + 8, &hops, 1, 0);
}

#endif
