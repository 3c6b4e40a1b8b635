/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flow table. Policy judges a flow's first packet; the rest of the flow, and its replies, pass by the entry, so that a
 * revoked rule does not cut a flow that runs (as in EC2).
 *
 * A flow begins in its port's half-open table and moves to the answered ones when it is answered: a guest that sends
 * SYNs into the void evicts only other unanswered flows, and only of its own port.
 */
#ifndef FLOW_H
#define FLOW_H

#include "policy.h"

#define SECOND 1000000000ull

static __always_inline __u64 idle_limit(struct flow *f, __u8 protocol)
{
	if (protocol == IPPROTO_TCP) {
		if (f->reset)
			return 10 * SECOND;
		if (f->fins == 3)
			return 60 * SECOND;
		if (!f->answered)
			return 60 * SECOND;
		return 432000 * SECOND; /* EC2's default for established flows: 5 days */
	}
	if (protocol == IPPROTO_UDP)
		return f->answered ? 180 * SECOND : 30 * SECOND;
	return protocol == IPPROTO_ICMP ? 30 * SECOND : 600 * SECOND;
}

/* flow_key_of is 0 when packets of this kind are not tracked: ICMP that is neither echo nor an error. */
static __always_inline int flow_key_of(struct flow_key *key, struct packet *p, __u8 direction)
{
	__be32 source = p->source, destination = p->destination;
	__be16 source_port = p->source_port, destination_port = p->destination_port;
	__u8 protocol = p->protocol, sender = direction;
	if (p->flags & ICMP_ABOUT) { /* the packet it complains about went the other way */
		source = p->about_source;
		destination = p->about_destination;
		source_port = p->about_source_port;
		destination_port = p->about_destination_port;
		protocol = p->about_protocol;
		sender = !direction;
	}
	key->protocol = protocol;
	if (protocol == IPPROTO_ICMP) {
		__u8 type = bpf_ntohs(destination_port) >> 8;
		if (type != ICMP_ECHO && type != ICMP_ECHOREPLY)
			return 0;
		key->initiator = type == ICMP_ECHO ? sender : !sender;
		destination_port = source_port;
	}
	int out = sender == DIR_OUT;
	key->local = out ? source : destination;
	key->remote = out ? destination : source;
	key->local_port = out ? source_port : destination_port;
	key->remote_port = out ? destination_port : source_port;
	return 1;
}

static __always_inline void touch(struct flow *f, struct packet *p, __u8 direction, __u64 now)
{
	f->last_ns = now;
	if (p->protocol != IPPROTO_TCP || (p->flags & ICMP_ABOUT))
		return;
	if (p->tcp_flags & TCP_RST)
		f->reset = 1;
	if (p->tcp_flags & TCP_FIN)
		f->fins |= 1 << direction;
}

/* A SYN on a flow that is closing begins a new flow, which policy judges anew. */
static __always_inline int begins_anew(struct flow *f, struct packet *p)
{
	if (p->protocol != IPPROTO_TCP || (p->flags & ICMP_ABOUT))
		return 0;
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && (f->reset || f->fins);
}

/* flow_tables are one port's. */
struct flow_tables {
	void *answered;
	void *half_open;
};

/* flow_tables_of is 0 when the port has none: nothing of it may pass then. */
static __always_inline int flow_tables_of(struct flow_tables *tables, __u32 slot)
{
	tables->answered = bpf_map_lookup_elem(&port_flows, &slot);
	tables->half_open = bpf_map_lookup_elem(&port_half_open, &slot);
	return tables->answered && tables->half_open;
}

static __always_inline int known_flow(struct flow_tables *tables, struct flow_key *key, struct packet *p, __u8 direction,
				      __u64 now)
{
	struct flow *f = bpf_map_lookup_elem(tables->answered, key);
	if (f && now - f->last_ns < idle_limit(f, key->protocol) && !begins_anew(f, p)) {
		touch(f, p, direction, now);
		return 1;
	}
	f = bpf_map_lookup_elem(tables->half_open, key);
	if (!f || now - f->last_ns >= idle_limit(f, key->protocol) || begins_anew(f, p))
		return 0;
	if (p->flags & ICMP_ABOUT) /* an error is no answer */
		return 1;
	touch(f, p, direction, now);
	if (f->origin == direction)
		return 1;
	struct flow answered = *f;
	answered.answered = 1;
	bpf_map_update_elem(tables->answered, key, &answered, BPF_ANY);
	bpf_map_delete_elem(tables->half_open, key);
	return 1;
}

static __always_inline void new_flow(struct flow_tables *tables, struct flow_key *key, struct packet *p, __u8 direction,
				     __u64 now)
{
	struct flow fresh = { .origin = direction };
	touch(&fresh, p, direction, now);
	bpf_map_delete_elem(tables->answered, key);
	bpf_map_update_elem(tables->half_open, key, &fresh, BPF_ANY);
}

/* judge lets a packet of a port pass (0) or gives the reason to drop it. */
static __always_inline int judge(struct packet *p, struct port *port, __u32 slot, __u8 direction, __u16 identity)
{
	struct flow_key key = { .slot = slot, .epoch = port->epoch };
	struct flow_tables tables;
	__u64 now = bpf_ktime_get_ns();
	int tracked = flow_key_of(&key, p, direction);
	if (!flow_tables_of(&tables, slot))
		return DROP_INTERNAL;
	if (tracked && known_flow(&tables, &key, p, direction, now))
		return 0;
	if (p->flags & ICMP_ABOUT)
		return DROP_UNTRACKED;
	__u32 set = direction == DIR_OUT ? port->egress : port->ingress;
	__be32 peer = direction == DIR_OUT ? p->destination : p->source;
	if (!allowed(set, identity, peer, p->protocol, p->destination_port))
		return direction == DIR_OUT ? DROP_DENIED_EGRESS : DROP_DENIED_INGRESS;
	/* A stray echo reply may be allowed, but it begins no flow: only requests do. */
	if (tracked && !(p->protocol == IPPROTO_ICMP && key.initiator != direction))
		new_flow(&tables, &key, p, direction, now);
	return 0;
}

/* pass judges a packet with its fragments. */
static __always_inline int pass(struct packet *p, struct port *port, __u32 slot, __u8 direction, __u16 identity)
{
	int reason;
	if (p->flags & FRAGMENT_LATER) {
		reason = resolve_fragment(p, port, slot, direction);
		if (reason)
			return reason;
		/* ICMP fragments: the error's embedded packet is in the first one, which was judged. */
		if (p->protocol == IPPROTO_ICMP)
			return 0;
	}
	reason = judge(p, port, slot, direction, identity);
	if (!reason && (p->flags & FRAGMENT_FIRST))
		reason = resolve_fragment(p, port, slot, direction);
	return reason;
}

#endif
