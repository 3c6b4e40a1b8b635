/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Security groups: a packet is allowed when some rule of the port's set allows its peer, protocol and port.
 *
 * host/internal/policy compiles groups to these entries and holds the same look-up in Go, which its tests compare with
 * a direct reading of the rules.
 */
#ifndef POLICY_H
#define POLICY_H

#include "packet.h"

static __always_inline int allows(struct policy_key *key, __u16 class, __u8 protocol)
{
	__u8 kind = key->kind;
	key->class = class;
	key->protocol = protocol;
	if (bpf_map_lookup_elem(&policy, key))
		return 1;
	key->class = 0;
	key->kind = kind | POLICY_ANY_PORT;
	if (bpf_map_lookup_elem(&policy, key))
		return 1;
	key->protocol = 0;
	key->kind = kind | POLICY_ANY_PORT | POLICY_ANY;
	return bpf_map_lookup_elem(&policy, key) != 0;
}

static __always_inline int allowed(__u32 set, __u16 identity, __be32 address, __u8 protocol, __be16 port)
{
	if (!set)
		return 0;
	struct port_class_key port_key = { .prefix_bits = 64, .set = set, .protocol = protocol, .port = port };
	__u32 *found = bpf_map_lookup_elem(&port_classes, &port_key);
	__u16 class = found ? *found : 0;
	struct policy_key key = { .set = set, .peer = identity };
	if (identity && allows(&key, class, protocol))
		return 1;
	struct cidr_key cidr_key = { .prefix_bits = 64, .set = set, .address = address };
	found = bpf_map_lookup_elem(&cidrs, &cidr_key);
	if (!found)
		return 0;
	key.peer = *found;
	key.kind = POLICY_CIDR;
	return allows(&key, class, protocol);
}

#endif
