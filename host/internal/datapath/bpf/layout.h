/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space and the programs share: map keys and values, limits, drop reasons.
 *
 * A change of any layout here needs a new LAYOUT in layout.go: pinned maps outlive the agent, and an agent must never
 * read another layout. layout_test.go compares every structure with its Go twin through the object's BTF.
 *
 * Addresses and ports are in network order where the type says __be, else in host order.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <linux/types.h>

#define MAX_PORTS 1024          /* slots; slot 0 is no port: its counters are the host's own */
#define MAX_PAGES 4096          /* of 256 addresses: 1,048,576 mappings, 8 MiB */
#define MAX_HOSTS 65536
#define MAX_POLICY 262144
#define MAX_PORT_CLASSES 131072
#define MAX_CIDRS 65536
#define MAX_RULE_SETS 16384
#define MAX_PORT_FLOWS 16384    /* answered flows of one port; the one idle longest makes room */
#define MAX_PORT_HALF_OPEN 4096 /* unanswered ones: a flood of them evicts none of the answered */
#define MAX_PORT_FRAGMENTS 1024

#define SERVICE_ADDR 0xa9fea9feu /* 169.254.169.254 */
/* 100.64.0.0/10: a port as the servers see it is BASE | alias << 19 | generation << 10 | slot. The generation is the low
 * bits of the port's epoch, so that a server's connection to a guest never reaches the next guest of the slot. */
#define SERVICE_BASE 0x64400000u
#define SERVICE_ALIAS_SHIFT 19
#define SERVICE_GENERATION_SHIFT 10
#define SERVICE_GENERATIONS 512
#define RESOLVER_ADDR 0xa9fea9fdu /* 169.254.169.253 */
#define CLOCK_ADDR 0xa9fea97bu    /* 169.254.169.123 */

/* The address that a guest used for a service. It travels in the peer address that the server sees, so that the reply
 * can be given the right source without any state. */
enum alias {
	ALIAS_SERVICE = 0,
	ALIAS_RESOLVER = 1,
	ALIAS_SUBNET_RESOLVER = 2,
	ALIAS_CLOCK = 3,
	ALIAS_GATEWAY = 4,
	ALIAS_VPC_RESOLVER = 5,
	ALIAS_RENEWAL = 6, /* DHCP from the guest's own address */
	ALIASES,
};

/* Counters of one port. Append only; names in counters.go. */
enum counter {
	COUNT_TX_PACKETS,     /* accepted from the guest */
	COUNT_TX_BYTES,
	COUNT_RX_PACKETS,     /* delivered to the guest */
	COUNT_RX_BYTES,
	COUNT_SERVICE,        /* to the host's own servers */
	DROP_SPOOF_MAC,
	DROP_SPOOF_IP,
	DROP_SPOOF_ARP,
	DROP_PROTOCOL,        /* neither IPv4 nor ARP, or VLAN-tagged */
	DROP_MALFORMED,
	DROP_DENIED_EGRESS,
	DROP_DENIED_INGRESS,
	DROP_NO_MAPPING,      /* nobody in the VPC has that address */
	DROP_NO_IDENTITY,
	DROP_FORGED,          /* tunnel packet whose source host does not hold the source address */
	DROP_FRAGMENT,        /* later fragment without its first, or one cut too short */
	DROP_TOO_BIG,         /* answered with fragmentation needed */
	DROP_UNTRACKED,       /* ICMP error about no flow of ours */
	DROP_SERVICE,         /* to a link-local or host address that serves nothing */
	DROP_INTERNAL,        /* a helper failed or a map is full */
	COUNTERS = 24,
};

#define PORT_SOURCE_CHECK 1 /* the guest may send from its own address only */

struct port {
	__u32 ifindex; /* 0: the slot is free */
	__u32 vni;
	__be32 address;
	__be32 subnet;
	__be32 vpc_resolver;
	__u32 ingress; /* rule set ids; 0 allows nothing */
	__u32 egress;
	__u16 identity;
	__u16 epoch; /* +1 at each use of the slot: flows of an earlier guest are never matched */
	__u16 mtu;
	__u8 hops; /* TTL of what the metadata service sends */
	__u8 flags;
	__u8 mac[6];
	__u8 pad[2];
	char id[24]; /* interface id, for re-adoption */
	char device[16];
};

struct address_key {
	__u32 vni;
	__be32 address;
};

struct page_key {
	__u32 vni;
	__u32 prefix; /* address >> 8 */
};

/* The generation must equal the entries': a program that read the directory before a page was given away finds nothing
 * on the page's new content. */
struct page_ref {
	__u32 page;
	__u32 generation;
};

/* A mapping: host index 20 bits, identity 16, flags 8, generation 20, from the least significant. Host index 0: none. */
#define MAPPING_HOST(m) ((__u32)(m)&0xfffff)
#define MAPPING_IDENTITY(m) ((__u16)((m) >> 20))
#define MAPPING_GENERATION(m) ((__u32)((m) >> 44))

struct policy_key {
	__u32 set;
	__u16 peer;  /* identity, or class of address block */
	__u16 class; /* port class; 0 is the ports that no rule names */
	__u8 kind;   /* POLICY_* */
	__u8 protocol;
	__u16 pad;
};

#define POLICY_CIDR 1     /* peer is a block class, not an identity */
#define POLICY_ANY_PORT 2 /* class is 0 and not looked at */
#define POLICY_ANY 4      /* nor is the protocol */

struct port_class_key {
	__u32 prefix_bits; /* 48 fixed, up to 16 of port */
	__u32 set;
	__u8 protocol;
	__u8 pad;
	__be16 port;
};

struct cidr_key {
	__u32 prefix_bits; /* 32 fixed, up to 32 of address */
	__u32 set;
	__be32 address;
};

struct digest {
	__u8 sum[16];
};

/* One key for both directions, from the port's own view. */
struct flow_key {
	__u16 slot;
	__u16 epoch;
	__be32 local;
	__be32 remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 initiator; /* ICMP only: direction of the request */
	__u16 pad;
};

struct flow {
	__u64 last_ns;
	__u8 origin; /* DIR_* of the first packet */
	__u8 fins;   /* bit per direction */
	__u8 reset;
	__u8 answered;
	__u32 pad;
};

struct fragment_key {
	__u16 slot;
	__u16 epoch;
	__be32 source;
	__be32 destination;
	__be16 id;
	__u8 protocol;
	__u8 direction;
};

struct fragment {
	__u64 last_ns;
	__be16 source_port;
	__be16 destination_port;
	__u32 pad;
};

struct seen {
	__u64 arp_ns;
	__u64 dhcp_ns;
	__u64 ip_ns;
};

struct config {
	__u32 vxlan_ifindex;
	__u32 service_ifindex;
	__u8 service_mac[6]; /* of the servers' end */
	__u8 pad[2];
};

#endif
