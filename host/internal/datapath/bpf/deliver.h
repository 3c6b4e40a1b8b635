/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a judged packet goes: a tap of this host, or through the tunnel to another host. */
#ifndef DELIVER_H
#define DELIVER_H

#include "flow.h"

/* The MAC of every gateway, resolver and neighbour as guests see them. No device has it, so that a frame which no
 * program took reaches no stack. Twin: GatewayMAC in layout.go. */
#define GATEWAY_MAC 0x02, 0x6e, 0x62, 0x00, 0x00, 0x01

static __always_inline struct port *port_at(__u32 slot)
{
	struct port *port = bpf_map_lookup_elem(&ports, &slot);
	return port && port->ifindex ? port : 0;
}

static __always_inline __u64 mapping_of(__u32 vni, __be32 address)
{
	struct page_key key = { .vni = vni, .prefix = bpf_ntohl(address) >> 8 };
	struct page_ref *ref = bpf_map_lookup_elem(&directory, &key);
	if (!ref)
		return 0;
	__u32 index = ref->page * 256 + (bpf_ntohl(address) & 0xff);
	__u64 *entry = bpf_map_lookup_elem(&pages, &index);
	if (!entry)
		return 0;
	__u64 mapping = *(volatile __u64 *)entry;
	if (MAPPING_GENERATION(mapping) != ref->generation || !MAPPING_HOST(mapping))
		return 0;
	return mapping;
}

static __always_inline __be32 underlay_of(__u32 host)
{
	__be32 *address = bpf_map_lookup_elem(&hosts, &host);
	return address ? *address : 0;
}

static __always_inline int deliver_local(struct __sk_buff *skb, struct port *to, __u32 slot)
{
	__u8 macs[12] = { [6] = GATEWAY_MAC };
	__builtin_memcpy(macs, to->mac, 6);
	count(slot, COUNT_RX_PACKETS, 1);
	count(slot, COUNT_RX_BYTES, skb->len);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(slot, DROP_INTERNAL);
	return bpf_redirect(to->ifindex, 0);
}

/* The don't-fragment flag keeps a packet that is too long for the underlay from being cut silently: it is lost and
 * counted there (IpFragFails), and too_big() sees to it that none is sent. */
static __always_inline int deliver_tunnel(struct __sk_buff *skb, struct port *from, __u32 slot, __be32 underlay)
{
	__u32 zero = 0;
	struct config *config_now = bpf_map_lookup_elem(&config, &zero);
	struct bpf_tunnel_key key = {
		.tunnel_id = from->vni,
		.remote_ipv4 = bpf_ntohl(underlay),
		.tunnel_ttl = 64,
	};
	__u32 group = from->identity; /* struct vxlan_metadata */
	if (!config_now || !underlay)
		return drop(slot, DROP_INTERNAL);
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_DONT_FRAGMENT | BPF_F_ZERO_CSUM_TX))
		return drop(slot, DROP_INTERNAL);
	if (bpf_skb_set_tunnel_opt(skb, &group, sizeof(group)))
		return drop(slot, DROP_INTERNAL);
	return bpf_redirect(config_now->vxlan_ifindex, 0);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* trim_for_error cuts the packet to what an ICMP error quotes and returns that length, 0 on failure. *partial tells that
 * the transport checksum is still to be filled in by the kernel or the guest.
 *
 * Programs cannot see that state, but the kernel refuses to cut a packet above a checksum that it owes. */
static __always_inline __u32 trim_for_error(struct __sk_buff *skb, __u8 protocol, int *partial)
{
	*partial = 0;
	if (protocol == IPPROTO_TCP) {
		if (!bpf_skb_change_tail(skb, ETH_HLEN + 28, 0))
			return 28;
		*partial = 1;
		return bpf_skb_change_tail(skb, ETH_HLEN + 40, 0) ? 0 : 40;
	}
	if (protocol == IPPROTO_UDP && bpf_skb_change_tail(skb, ETH_HLEN + 27, 0))
		*partial = 1;
	return bpf_skb_change_tail(skb, ETH_HLEN + 28, 0) ? 0 : 28;
}

struct icmp_error {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 unused;
	__be16 mtu;
	__u8 quote[40];
};

/* too_big answers a packet that does not fit the tunnel with ICMP fragmentation needed, in place. */
static __always_inline int too_big(struct __sk_buff *skb, struct packet *p, struct port *port, __u32 slot)
{
	struct icmp_error error = { .type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED, .mtu = bpf_htons(port->mtu) };
	__u8 frame[14] = { [6] = GATEWAY_MAC, 0x08, 0x00 };
	int partial;
	count(slot, DROP_TOO_BIG, 1);
	if (p->header_bytes != 20 || p->bytes < 60)
		return TC_ACT_SHOT;
	__u32 quoted = trim_for_error(skb, p->protocol, &partial);
	if (quoted == 40 ? bpf_skb_load_bytes(skb, ETH_HLEN, error.quote, 40)
			 : bpf_skb_load_bytes(skb, ETH_HLEN, error.quote, 28))
		return TC_ACT_SHOT;
	__u8 owed[2];
	__builtin_memcpy(owed, error.quote + (quoted == 40 ? 36 : 26), 2);
	if (partial) {
		/* The kernel will fill the quoted checksum in when the guest does not take over the debt: sum what it will
		 * write there. A guest that does take it over checks nothing. */
		__u16 filled = fold(bpf_csum_diff(0, 0, (__be32 *)(error.quote + 20), 20, 0));
		filled = filled ? filled : 0xffff;
		__builtin_memcpy(error.quote + (quoted == 40 ? 36 : 26), &filled, 2);
	}
	error.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&error, sizeof(error), 0));
	if (partial)
		__builtin_memcpy(error.quote + (quoted == 40 ? 36 : 26), owed, 2);

	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(ip) + 8 + quoted),
		.ttl = 64,
		.protocol = IPPROTO_ICMP,
		.saddr = port->subnet | bpf_htonl(1),
		.daddr = p->source,
	};
	ip.check = fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
	__builtin_memcpy(frame, port->mac, 6);
	if (bpf_skb_adjust_room(skb, sizeof(ip) + 8, BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, frame, sizeof(frame), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &error, 8, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* wire_bytes is the longest IP packet that this frame becomes in the tunnel. What is carried is the frame, whatever length
 * its header claims; of a large send it is the segments. A tap's gso_segs is 0, so it tells nothing: only gso_size does. */
static __always_inline __u32 wire_bytes(struct __sk_buff *skb, struct packet *p)
{
	__u32 frame = skb->len - ETH_HLEN;
	if (!skb->gso_size)
		return frame;
	__u32 segment = p->header_bytes + (p->protocol == IPPROTO_TCP ? p->tcp_header_bytes : 8) + skb->gso_size;
	return segment < frame ? segment : frame;
}

#endif
