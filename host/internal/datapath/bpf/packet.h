/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Headers of one packet, read once. */
#ifndef PACKET_H
#define PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include "maps.h"

#define DIR_OUT 0 /* from the guest */
#define DIR_IN 1

#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2
#define ICMP_ABOUT 4 /* an ICMP error; the embedded packet's tuple is in about_* */

/* <linux/icmp.h> and <linux/if_arp.h> pull the C library's headers in. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_FRAG_NEEDED 4

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct packet {
	__be32 source;
	__be32 destination;
	__be16 source_port;      /* ICMP echo: identifier */
	__be16 destination_port; /* what policy judges; ICMP: type << 8 | code */
	__be16 id;
	__u16 bytes; /* of the IP packet */
	__u16 header_bytes;
	__u8 protocol;
	__u8 flags;
	__u8 tcp_flags;
	__u8 about_protocol;
	__u16 tcp_header_bytes;
	__be32 about_source;
	__be32 about_destination;
	__be16 about_source_port;
	__be16 about_destination_port;
};

static __always_inline void count(__u32 slot, __u32 counter, __u64 n)
{
	__u32 key = slot * COUNTERS + counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);
	if (value)
		*value += n;
}

/* Programs drop by this alone: nothing ever goes up into the host's own stack. */
static __always_inline int drop(__u32 slot, __u32 reason)
{
	count(slot, reason, 1);
	return TC_ACT_SHOT;
}

static __always_inline int read_icmp(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u8 header[8];
	if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
		return DROP_MALFORMED;
	p->destination_port = bpf_htons((__u16)header[0] << 8 | header[1]);
	if (header[0] == ICMP_ECHO || header[0] == ICMP_ECHOREPLY)
		__builtin_memcpy(&p->source_port, header + 4, 2);
	if (header[0] != ICMP_DEST_UNREACH && header[0] != ICMP_TIME_EXCEEDED && header[0] != ICMP_PARAMETERPROB)
		return 0;
	struct iphdr about;
	offset += sizeof(header);
	if (bpf_skb_load_bytes(skb, offset, &about, sizeof(about)) || about.version != 4 || about.ihl < 5)
		return DROP_MALFORMED;
	/* An error goes back to the sender of what it complains about, and to nobody else. */
	if (about.saddr != p->destination)
		return DROP_UNTRACKED;
	p->flags |= ICMP_ABOUT;
	p->about_source = about.saddr;
	p->about_destination = about.daddr;
	p->about_protocol = about.protocol;
	if (about.frag_off & bpf_htons(0x1fff))
		return DROP_UNTRACKED;
	if (bpf_skb_load_bytes(skb, offset + about.ihl * 4, header, sizeof(header)))
		return DROP_MALFORMED;
	if (about.protocol == IPPROTO_TCP || about.protocol == IPPROTO_UDP) {
		__builtin_memcpy(&p->about_source_port, header, 2);
		__builtin_memcpy(&p->about_destination_port, header + 2, 2);
	} else if (about.protocol == IPPROTO_ICMP) {
		p->about_destination_port = bpf_htons((__u16)header[0] << 8 | header[1]);
		__builtin_memcpy(&p->about_source_port, header + 4, 2);
	}
	return 0;
}

static __always_inline int read_transport(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset = ETH_HLEN + p->header_bytes;
	__u8 header[14];
	if (p->protocol == IPPROTO_ICMP)
		return read_icmp(skb, p, offset);
	if (p->protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, offset, header, 8))
			return DROP_MALFORMED;
	} else if (p->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
			return DROP_MALFORMED;
		p->tcp_flags = header[13];
		p->tcp_header_bytes = (header[12] >> 4) * 4;
	} else {
		return 0;
	}
	__builtin_memcpy(&p->source_port, header, 2);
	__builtin_memcpy(&p->destination_port, header + 2, 2);
	return 0;
}

/* read_packet fills p from an IPv4 packet, or returns the reason to drop it. A later fragment's ports are left 0. */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	p->header_bytes = ip.ihl * 4;
	p->bytes = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || ip.ihl < 5 || p->bytes < p->header_bytes || skb->len < ETH_HLEN + (__u32)p->bytes)
		return DROP_MALFORMED;
	p->source = ip.saddr;
	p->destination = ip.daddr;
	p->protocol = ip.protocol;
	p->id = ip.id;
	__u16 fragment = bpf_ntohs(ip.frag_off);
	__u16 offset = fragment & 0x1fff;
	/* Fragments that begin inside the first 24 bytes of the payload could rewrite the ports that policy judged. */
	if (offset && offset < 3)
		return DROP_FRAGMENT;
	if (offset) {
		p->flags |= FRAGMENT_LATER;
		return 0;
	}
	if (fragment & 0x2000)
		p->flags |= FRAGMENT_FIRST;
	return read_transport(skb, p);
}

/* resolve_fragment remembers a first fragment's ports and gives them to the later ones. Call it for a first fragment
 * only once policy let it pass, for a later one before policy. */
static __always_inline int resolve_fragment(struct packet *p, struct port *port, __u32 slot, __u8 direction)
{
	struct fragment_key key = {
		.slot = slot,
		.epoch = port->epoch,
		.source = p->source,
		.destination = p->destination,
		.id = p->id,
		.protocol = p->protocol,
		.direction = direction,
	};
	void *fragments = bpf_map_lookup_elem(&port_fragments, &slot);
	if (!fragments)
		return DROP_INTERNAL;
	if (p->flags & FRAGMENT_FIRST) {
		struct fragment fresh = {
			.last_ns = bpf_ktime_get_ns(),
			.source_port = p->source_port,
			.destination_port = p->destination_port,
		};
		return bpf_map_update_elem(fragments, &key, &fresh, BPF_ANY) ? DROP_INTERNAL : 0;
	}
	struct fragment *first = bpf_map_lookup_elem(fragments, &key);
	if (!first || bpf_ktime_get_ns() - first->last_ns > 30ull * 1000000000)
		return DROP_FRAGMENT;
	p->source_port = first->source_port;
	p->destination_port = first->destination_port;
	return 0;
}

#endif
