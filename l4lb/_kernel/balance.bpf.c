// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Forwarding in the kernel: one source, two programs. As it is for XDP; with -DTCX for the ingress of tcx (Linux 6.6),
// where packets are socket buffers. Only what Linux's stable interface has: no BTF, no CO-RE. It is dual licensed, as
// some helpers (bpf_fib_lookup) are for programs under the GPL alone; the rest of l4lb is under Apache-2.0.
//
//   a packet --parse--> a service (address, port, protocol)? --no--> an answer of a NAT backend? --no--> the stack
//                          | yes                                        | yes
//                          | a known flow's backend, or by hash         | from the service's address again
//                          v                                            v
//                       dsr: to the backend's link address as it is   by the kernel's routes
//                       nat: to the backend's address, by the kernel's routes
//                       tunnel: as it is, behind a header of its own to the backend's address (tunnel.h)
//
// Control writes `services`, `slots`, `backends` and `answers`; the programs write flows, fragments and counts. A service
// changes as a whole: its table is written where no service points to yet, then its entry is replaced.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

#ifdef TCX
typedef struct __sk_buff context_t;
#define PASS (-1)              // TCX_NEXT (Linux 6.6): other programs of the device see it too
#define DROP TC_ACT_SHOT
#define TRAIN_SEGMENT(context) ((context)->gso_size)
#else
typedef struct xdp_md context_t;
#define PASS XDP_PASS
#define DROP XDP_DROP
#define TRAIN_SEGMENT(context) ((void)(context), 0)
#endif

#define INLINE static __always_inline
// With a stack of its own, of which there are 512 bytes in all. As it is not static, the verifier goes through it once,
// not for each way that leads there; so it does not know what it is given, and wants to see that pointers are there.
#define APART __attribute__((noinline))
#define AF_INET 2
#define AF_INET6 10

// ---- maps ----

#define MAP(name, kind, key_t, value_t, entries, how)                                                                  \
	struct {                                                                                                           \
		__uint(type, kind);                                                                                            \
		__uint(max_entries, entries);                                                                                  \
		__uint(map_flags, how);                                                                                        \
		__uint(key_size, sizeof(key_t));                                                                               \
		__uint(value_size, sizeof(value_t));                                                                           \
	} name SEC(".maps")

MAP(services, BPF_MAP_TYPE_HASH, struct endpoint, struct service, SERVICES_MAX, 0);
MAP(slots, BPF_MAP_TYPE_ARRAY, __u32, __u64, SLOT_WORDS, BPF_F_MMAPABLE);      // four backends in each word
MAP(backends, BPF_MAP_TYPE_ARRAY, __u32, struct backend, BACKENDS_MAX, BPF_F_MMAPABLE);
MAP(answers, BPF_MAP_TYPE_HASH, struct endpoint, struct answer, BACKENDS_MAX, 0);  // of NAT, by where they are from
MAP(handshakes, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, HANDSHAKES_MAX, 0);
MAP(tcp_flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, FLOWS_MAX, 0);
MAP(udp_flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, FLOWS_MAX, 0);
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment, FRAGMENTS_MAX, 0);
MAP(denied, BPF_MAP_TYPE_LPM_TRIE, struct denied_key, __u32, DENIED_MAX, BPF_F_NO_PREALLOC);
MAP(by_service, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counts, SERVICES_MAX, 0);
MAP(by_backend, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counts, BACKENDS_MAX, 0);
MAP(places, BPF_MAP_TYPE_ARRAY, __u32, struct place, BACKENDS_MAX, BPF_F_MMAPABLE);
MAP(numbers, BPF_MAP_TYPE_ARRAY, __u32, struct number, SERVICES_MAX, BPF_F_MMAPABLE);
MAP(verdicts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, VERDICT_COUNT, 0);

// ---- packets ----

struct packet {
	struct address source, destination;   // the client's and the service's; of an ICMP error: of the packet it is about
	__be16 source_port, destination_port; // 0 in a later fragment
	__u32 l3, l4;                         // where these headers begin
	__u32 bytes, device, fragment_id;
	__u32 mtu;                            // that it would have to fit, when it does not
	__u8 protocol;
	__u8 v6;
	__u8 part;                            // enum part
	__u8 is_error;                        // an ICMP error
	__u8 hops;                            // that it has left
	__u8 is_syn;
	__u8 is_end;                          // FIN or RST
	__u8 is_new;                          // a flow begins with it
	__u8 has_quic_hash;
	__u64 quic_hash;                      // of the connection id that its client drew, see quic.h
};

enum part { PART_WHOLE, PART_FIRST, PART_LATER };

INLINE void *at(context_t *context, __u32 offset)
{
	return (void *)(long)context->data + offset;
}

INLINE void *end_of(context_t *context)
{
	return (void *)(long)context->data_end;
}

INLINE long load(context_t *context, __u32 offset, void *to, __u32 size)
{
#ifdef TCX
	return bpf_skb_load_bytes(context, offset, to, size);
#else
	return bpf_xdp_load_bytes(context, offset, to, size);
#endif
}

INLINE void count_verdict(__u32 verdict)
{
	__u64 *count = bpf_map_lookup_elem(&verdicts, &verdict);
	if (count)
		*count += 1;
}

INLINE int stop(__u32 verdict, int action)
{
	count_verdict(verdict);
	return action;
}

INLINE void address_v4(struct address *address, __be32 v4)
{
	address->words[0] = address->words[1] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = v4;
}

INLINE int is_v4(const struct address *address)
{
	return !address->words[0] && !address->words[1] && address->words[2] == bpf_htonl(0xffff);
}

// The ports of a TCP or UDP header; 0, or -1 when it is cut off.
INLINE int parse_ports(struct packet *packet, void *l4, void *end)
{
	if (packet->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;
		if ((void *)(tcp + 1) > end)
			return -1;
		packet->source_port = tcp->source;
		packet->destination_port = tcp->dest;
		packet->is_syn = tcp->syn && !tcp->ack;
		packet->is_end = tcp->fin || tcp->rst;
		return 0;
	}
	struct udphdr *udp = l4;
	if (packet->protocol != IPPROTO_UDP || (void *)(udp + 1) > end)
		return -1;
	packet->source_port = udp->source;
	packet->destination_port = udp->dest;
	return 0;
}

// The packet that an ICMP error is about went the other way: from the service to the client.
INLINE int parse_error_ports(struct packet *packet, void *l4, void *end)
{
	__be16 *ports = l4;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		return -1;
	if ((void *)(ports + 4) > end)
		return -1;
	packet->destination_port = ports[0];
	packet->source_port = ports[1];
	packet->is_error = 1;
	return 0;
}

INLINE int parse_icmp(struct packet *packet, void *l4, void *end)
{
	struct icmp *icmp = l4;
	struct iphdr *about = (void *)(icmp + 1);
	if ((void *)(about + 1) > end)
		return -1;
	if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER)
		return -1;
	if (about->ihl != 5 || about->saddr != packet->destination.words[3] || about->frag_off & bpf_htons(0x1fff))
		return -1;
	packet->protocol = about->protocol;
	address_v4(&packet->source, about->daddr);
	return parse_error_ports(packet, about + 1, end);
}

INLINE int parse_icmp6(struct packet *packet, void *l4, void *end)
{
	struct icmp *icmp = l4;
	struct ipv6hdr *about = (void *)(icmp + 1);
	if ((void *)(about + 1) > end || icmp->type >= 128)
		return -1;
	for (int i = 0; i < 4; i++)
		if (about->saddr.in6_u.u6_addr32[i] != packet->destination.words[i])
			return -1;
	packet->protocol = about->nexthdr;
	__builtin_memcpy(&packet->source, &about->daddr, 16);
	return parse_error_ports(packet, about + 1, end);
}

INLINE int parse_v4(struct packet *packet, void *l3, void *end)
{
	struct iphdr *ip = l3;
	if ((void *)(ip + 1) > end || ip->ihl != 5)
		return -1;
	address_v4(&packet->source, ip->saddr);
	address_v4(&packet->destination, ip->daddr);
	packet->protocol = ip->protocol;
	packet->fragment_id = ip->id;
	packet->hops = ip->ttl;
	packet->l4 = packet->l3 + sizeof(*ip);
	if (ip->frag_off & bpf_htons(0x1fff)) {
		packet->part = PART_LATER;
		return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ? 0 : -1;
	}
	if (ip->frag_off & bpf_htons(0x2000))
		packet->part = PART_FIRST;
	return packet->protocol == IPPROTO_ICMP ? parse_icmp(packet, ip + 1, end) : parse_ports(packet, ip + 1, end);
}

INLINE int parse_v6(struct packet *packet, void *l3, void *end)
{
	struct ipv6hdr *ip = l3;
	void *l4 = ip + 1;
	if (l4 > end)
		return -1;
	packet->v6 = 1;
	__builtin_memcpy(&packet->source, &ip->saddr, 16);
	__builtin_memcpy(&packet->destination, &ip->daddr, 16);
	if (is_v4(&packet->source) || is_v4(&packet->destination))          // no address of any host
		return -1;
	packet->protocol = ip->nexthdr;
	packet->hops = ip->hop_limit;
	packet->l4 = packet->l3 + sizeof(*ip);
	if (packet->protocol == IPPROTO_FRAGMENT) {
		struct fragment_header *fragment = l4;
		l4 = fragment + 1;
		if (l4 > end)
			return -1;
		packet->protocol = fragment->next;
		packet->fragment_id = fragment->id;
		packet->l4 += sizeof(*fragment);
		packet->part = fragment->offset & bpf_htons(0xfff8) ? PART_LATER : PART_FIRST;
		if (packet->part == PART_LATER)
			return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ? 0 : -1;
	}
	return packet->protocol == IPPROTO_ICMPV6 ? parse_icmp6(packet, l4, end) : parse_ports(packet, l4, end);
}

// 0, or -1 for what is none of ours: other protocols, IPv4 options, IPv6 extensions, VLANs inside of VLANs.
INLINE int parse(context_t *context, struct packet *packet)
{
	__builtin_memset(packet, 0, sizeof(*packet));
#ifdef TCX
	__u64 linear = (__u64)context->data_end - (__u64)context->data;
	if (linear < HEADERS_MAX && linear < context->len)                  // in pieces, of which the first is short
		bpf_skb_pull_data(context, context->len < HEADERS_MAX ? context->len : HEADERS_MAX);
	packet->device = context->ifindex;
	packet->bytes = context->len;
#else
	packet->device = context->ingress_ifindex;
	packet->bytes = context->data_end - context->data;
#endif
	struct ethhdr *ethernet = at(context, 0);
	void *end = end_of(context);
	if ((void *)(ethernet + 1) > end)
		return -1;
	packet->l3 = sizeof(*ethernet);
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return parse_v4(packet, ethernet + 1, end);
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_v6(packet, ethernet + 1, end);
	return -1;
}

// ---- the hash: XXH64 of the same bytes as _dataplane/balancing/pick.pxd:client_hash ----

INLINE __u64 rotated(__u64 value, int bits)
{
	return value << bits | value >> (64 - bits);
}

INLINE __u64 xxh64_round(__u64 lane, __u64 word)
{
	return rotated(lane + word * XXH_PRIME_2, 31) * XXH_PRIME_1;
}

INLINE __u64 xxh64_merged(__u64 hash, __u64 lane)
{
	return (hash ^ xxh64_round(0, lane)) * XXH_PRIME_1 + XXH_PRIME_4;
}

// `length` is known where this is called: all that depends on it is decided by the compiler.
INLINE __u64 xxh64(const __u64 *words, const int length, __u64 seed)
{
	const __u8 *bytes = (const __u8 *)words;
	int done = 0;
	__u64 hash = seed + XXH_PRIME_5;
	if (length >= 32) {
		__u64 a = xxh64_round(seed + XXH_PRIME_1 + XXH_PRIME_2, words[0]);
		__u64 b = xxh64_round(seed + XXH_PRIME_2, words[1]);
		__u64 c = xxh64_round(seed, words[2]);
		__u64 d = xxh64_round(seed - XXH_PRIME_1, words[3]);
		hash = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18);
		hash = xxh64_merged(xxh64_merged(xxh64_merged(xxh64_merged(hash, a), b), c), d);
		done = 32;
	}
	hash += length;
#pragma unroll
	for (; done + 8 <= length; done += 8)
		hash = rotated(hash ^ xxh64_round(0, words[done / 8]), 27) * XXH_PRIME_1 + XXH_PRIME_4;
	if (done + 4 <= length) {
		hash = rotated(hash ^ (__u64) * (const __u32 *)(bytes + done) * XXH_PRIME_1, 23) * XXH_PRIME_2 + XXH_PRIME_3;
		done += 4;
	}
#pragma unroll
	for (; done < length; done++)
		hash = rotated(hash ^ bytes[done] * XXH_PRIME_5, 11) * XXH_PRIME_1;
	hash = (hash ^ hash >> 33) * XXH_PRIME_2;
	hash = (hash ^ hash >> 29) * XXH_PRIME_3;
	return hash ^ hash >> 32;
}

// The client's address under the pool's prefix.
INLINE void masked(struct address *address, const struct packet *packet, const struct service *service)
{
	for (int i = 0; i < 4; i++)
		address->words[i] = packet->source.words[i] & service->prefix.words[i];
}

INLINE __u64 hash_v4(const struct packet *packet, const struct service *service)
{
	__u64 words[2] = {};
	__u8 *key = (__u8 *)words;
	struct address source;
	masked(&source, packet, service);
	switch (service->hash_key) {
	case HASH_SOURCE_IP:
	case HASH_QUIC_CID:
		*(__u32 *)key = source.words[3];
		return xxh64(words, 4, service->seed);
	case HASH_SOURCE_IP_PORT:
		*(__u32 *)key = source.words[3];
		*(__be16 *)(key + 4) = packet->source_port;
		return xxh64(words, 6, service->seed);
	case HASH_DESTINATION:
		*(__u32 *)key = packet->destination.words[3];
		*(__be16 *)(key + 4) = packet->destination_port;
		return xxh64(words, 6, service->seed);
	case HASH_SESSION:
		*(__u32 *)key = source.words[3];
		*(__be16 *)(key + 4) = packet->source_port;
		*(__be16 *)(key + 6) = packet->destination.words[3] & 0xffff;
		*(__be16 *)(key + 8) = packet->destination.words[3] >> 16;
		*(__be16 *)(key + 10) = packet->destination_port;
		key[12] = packet->protocol;
		return xxh64(words, 13, service->seed);
	}
	return bpf_get_prandom_u32();
}

INLINE __u64 hash_v6(const struct packet *packet, const struct service *service)
{
	__u64 words[5] = {};
	__u8 *key = (__u8 *)words;
	struct address source;
	masked(&source, packet, service);
	switch (service->hash_key) {
	case HASH_SOURCE_IP:
	case HASH_QUIC_CID:
		__builtin_memcpy(key, &source, 16);
		return xxh64(words, 16, service->seed);
	case HASH_SOURCE_IP_PORT:
		__builtin_memcpy(key, &source, 16);
		*(__be16 *)(key + 16) = packet->source_port;
		return xxh64(words, 18, service->seed);
	case HASH_DESTINATION:
		__builtin_memcpy(key, &packet->destination, 16);
		*(__be16 *)(key + 16) = packet->destination_port;
		return xxh64(words, 18, service->seed);
	case HASH_SESSION:
		__builtin_memcpy(key, &source, 16);
		*(__be16 *)(key + 16) = packet->source_port;
		for (int i = 0; i < 4; i++) {
			*(__be16 *)(key + 18 + 4 * i) = packet->destination.words[i] & 0xffff;
			*(__be16 *)(key + 20 + 4 * i) = packet->destination.words[i] >> 16;
		}
		*(__be16 *)(key + 34) = packet->destination_port;
		key[36] = packet->protocol;
		return xxh64(words, 37, service->seed);
	}
	return bpf_get_prandom_u32();
}

// ---- checksums: by what changes (RFC 1624) ----

INLINE __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE __u16 address_change(const struct address *from, const struct address *to)
{
	__u64 sum = 0;
	for (int i = 0; i < 4; i++)
		sum += (__u64)(__u32)~from->words[i] + to->words[i];
	return folded(sum);
}

INLINE __u16 port_change(__be16 from, __be16 to)
{
	return folded((__u64)(__u16)~from + to);
}

// Which end of a packet is replaced, and by what.
struct change {
	struct address from, to;
	__be16 from_port, to_port;
	__u8 of_destination;
};

#ifdef TCX

// Of socket buffers, whose checksums may be unfinished: the kernel's own functions know.
INLINE int rewrite_error(context_t *context, const struct packet *packet, const struct change *change)
{
	// The outer destination, and within it the source of the packet that it is about. ICMP's checksum covers the inner
	// packet (for IPv6 also the outer addresses); inner checksums stay right by themselves.
	__u32 inner = packet->l4 + sizeof(struct icmp), outer = packet->l3 + (packet->v6 ? 24 : 16);
	__u32 inner_source = inner + (packet->v6 ? 8 : 12), inner_port = inner + (packet->v6 ? 40 : 20);
	__u32 icmp_checksum = packet->l4 + 2;
	__u16 addresses = address_change(&change->from, &change->to), ports = port_change(change->from_port, change->to_port);
	if (!packet->v6) {
		bpf_l3_csum_replace(context, packet->l3 + 10, change->from.words[3], change->to.words[3], 4);
		bpf_l3_csum_replace(context, inner + 10, change->from.words[3], change->to.words[3], 4);
		// the inner address and the inner header's checksum cancel each other out
		bpf_l4_csum_replace(context, icmp_checksum, change->from_port, change->to_port, 2);
		bpf_skb_store_bytes(context, outer, &change->to.words[3], 4, 0);
		bpf_skb_store_bytes(context, inner_source, &change->to.words[3], 4, 0);
	} else {
		bpf_l4_csum_replace(context, icmp_checksum, 0, addresses, BPF_F_PSEUDO_HDR);
		bpf_l4_csum_replace(context, icmp_checksum, 0, folded((__u64)addresses + ports), 0);
		bpf_skb_store_bytes(context, outer, &change->to, 16, 0);
		bpf_skb_store_bytes(context, inner_source, &change->to, 16, 0);
	}
	return bpf_skb_store_bytes(context, inner_port, &change->to_port, 2, 0);
}

INLINE int rewrite(context_t *context, const struct packet *packet, const struct change *change)
{
	__u32 address = packet->l3 + (packet->v6 ? (change->of_destination ? 24 : 8) : (change->of_destination ? 16 : 12));
	__u32 checksum = packet->l4 + (packet->protocol == IPPROTO_TCP ? 16 : 6);
	__u64 kind = packet->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	if (packet->is_error)
		return rewrite_error(context, packet, change);
	if (packet->part != PART_LATER) {
		__s64 sum = packet->v6 ? bpf_csum_diff((__be32 *)&change->from, 16, (__be32 *)&change->to, 16, 0) : 0;
		if (packet->v6)
			bpf_l4_csum_replace(context, checksum, 0, sum, kind | BPF_F_PSEUDO_HDR);
		else
			bpf_l4_csum_replace(context, checksum, change->from.words[3], change->to.words[3], kind | BPF_F_PSEUDO_HDR | 4);
		if (change->from_port != change->to_port) {
			bpf_l4_csum_replace(context, checksum, change->from_port, change->to_port, kind | 2);
			bpf_skb_store_bytes(context, packet->l4 + (change->of_destination ? 2 : 0), &change->to_port, 2, 0);
		}
	}
	if (packet->v6)
		return bpf_skb_store_bytes(context, address, &change->to, 16, 0);
	bpf_l3_csum_replace(context, packet->l3 + 10, change->from.words[3], change->to.words[3], 4);
	return bpf_skb_store_bytes(context, address, &change->to.words[3], 4, 0);
}

#else

INLINE __u16 checksum_changed(__u16 checksum, __u64 change)
{
	return ~folded((__u64)(__u16)~checksum + change);
}

INLINE int rewrite_error(const struct packet *packet, const struct change *change, void *l4, void *end)
{
	struct icmp *icmp = l4;
	__u16 addresses = address_change(&change->from, &change->to), ports = port_change(change->from_port, change->to_port);
	__u64 sum = ports;
	__be16 *inner_ports;
	if (!packet->v6) {
		struct iphdr *about = (void *)(icmp + 1);
		if ((void *)(about + 1) > end)
			return -1;
		about->saddr = change->to.words[3];
		about->check = checksum_changed(about->check, addresses);  // cancels out in ICMP's
		inner_ports = (void *)(about + 1);
	} else {
		struct ipv6hdr *about = (void *)(icmp + 1);
		if ((void *)(about + 1) > end)
			return -1;
		__builtin_memcpy(&about->saddr, &change->to, 16);
		sum += (__u64)addresses + addresses;                        // within, and in the pseudo header
		inner_ports = (void *)(about + 1);
	}
	if ((void *)(inner_ports + 4) > end)
		return -1;
	inner_ports[0] = change->to_port;
	icmp->checksum = checksum_changed(icmp->checksum, sum);
	return 0;
}

// 0, or -1 when the packet ends too early.
INLINE int rewrite(context_t *context, const struct packet *packet, const struct change *change)
{
	void *end = end_of(context), *l4;
	__u16 addresses = address_change(&change->from, &change->to);
	__u64 all = (__u64)addresses + port_change(change->from_port, change->to_port);
	if (!packet->v6) {
		struct iphdr *ip = at(context, sizeof(struct ethhdr));
		if ((void *)(ip + 1) > end)
			return -1;
		if (change->of_destination)
			ip->daddr = change->to.words[3];
		else
			ip->saddr = change->to.words[3];
		ip->check = checksum_changed(ip->check, addresses);
		l4 = ip + 1;
	} else {
		struct ipv6hdr *ip = at(context, sizeof(struct ethhdr));
		if ((void *)(ip + 1) > end)
			return -1;
		__builtin_memcpy(change->of_destination ? &ip->daddr : &ip->saddr, &change->to, 16);
		l4 = (void *)(ip + 1) + (packet->part == PART_WHOLE ? 0 : sizeof(struct fragment_header));
	}
	if (packet->part == PART_LATER)
		return 0;
	if (packet->is_error)
		return rewrite_error(packet, change, l4, end);
	if (packet->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;
		if ((void *)(tcp + 1) > end)
			return -1;
		if (change->of_destination)
			tcp->dest = change->to_port;
		else
			tcp->source = change->to_port;
		tcp->check = checksum_changed(tcp->check, all);
		return 0;
	}
	struct udphdr *udp = l4;
	if ((void *)(udp + 1) > end)
		return -1;
	if (change->of_destination)
		udp->dest = change->to_port;
	else
		udp->source = change->to_port;
	if (udp->check) {                                                // 0: the sender made none (RFC 768)
		__u16 checksum = checksum_changed(udp->check, all);
		udp->check = checksum ? checksum : 0xffff;
	}
	return 0;
}

#endif

// ---- the way out ----

INLINE int links_set(context_t *context, const __u8 *to, const __u8 *from)
{
	struct ethhdr *ethernet = at(context, 0);
	if ((void *)(ethernet + 1) > end_of(context))
		return -1;
	__builtin_memcpy(ethernet->h_source, from, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, to, ETH_ALEN);
	return 0;
}

// The kernel may hold a train of segments, or of datagrams, as one packet.
INLINE int is_train(context_t *context)
{
	return TRAIN_SEGMENT(context) != 0;
}

// How large it is, or, of a train, what it is sent as; from the IP header on.
INLINE __u32 segment_bytes(context_t *context, const struct packet *packet)
{
	__u8 words = 0;                                                    // of TCP's header, in the first four bits
	if (!is_train(context))
		return packet->bytes - packet->l3;
	if (packet->protocol == IPPROTO_UDP)
		return packet->l4 - packet->l3 + sizeof(struct udphdr) + TRAIN_SEGMENT(context);
	if (load(context, packet->l4 + 12, &words, sizeof(words)))
		return packet->bytes - packet->l3;
	return packet->l4 - packet->l3 + (words >> 4) * 4 + TRAIN_SEGMENT(context);
}

INLINE void look_fill(struct bpf_fib_lookup *look, const struct packet *packet, const struct address *from,
					  const struct address *next)
{
	__builtin_memset(look, 0, sizeof(*look));
	look->ifindex = packet->device;
	look->l4_protocol = packet->protocol;
	if (is_v4(next)) {
		look->family = AF_INET;
		look->ipv4_src = from->words[3];
		look->ipv4_dst = next->words[3];
	} else {
		look->family = AF_INET6;
		__builtin_memcpy(look->ipv6_src, from, 16);
		__builtin_memcpy(look->ipv6_dst, next, 16);
	}
}

// What the kernel's routes and neighbours say of a packet from `from` to `next`: a BPF_FIB_LKUP_RET.
INLINE long look_up(context_t *context, const struct packet *packet, const struct address *from,
					const struct address *next, struct bpf_fib_lookup *look)
{
	look_fill(look, packet, from, next);
	look->tot_len = segment_bytes(context, packet);
	return bpf_fib_lookup(context, look, sizeof(*look), 0);
}

// One hop less, as of every host that forwards: packets that go round in circles come to an end. 0, or -1 when it is the
// last one, or the packet ends too early.
INLINE int hop(context_t *context, const struct packet *packet)
{
	if (packet->hops <= 1)
		return -1;
#ifdef TCX
	__u8 left = packet->hops - 1;
	if (!packet->v6)
		bpf_l3_csum_replace(context, packet->l3 + 10, bpf_htons(packet->hops << 8), bpf_htons(left << 8), 2);
	return bpf_skb_store_bytes(context, packet->l3 + (packet->v6 ? 7 : 8), &left, 1, 0);
#else
	if (packet->v6) {
		struct ipv6hdr *ip = at(context, sizeof(struct ethhdr));
		if ((void *)(ip + 1) > end_of(context))
			return -1;
		ip->hop_limit--;
	} else {
		struct iphdr *ip = at(context, sizeof(struct ethhdr));
		if ((void *)(ip + 1) > end_of(context))
			return -1;
		ip->ttl--;
		ip->check = checksum_changed(ip->check, (__u16)~bpf_htons(0x0100));
	}
	return 0;
#endif
}

// A neighbour that the kernel does not know yet is asked for by tcx itself.
INLINE int is_reachable(long found)
{
#ifdef TCX
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH;
#else
	return found == BPF_FIB_LKUP_RET_SUCCESS;
#endif
}

// Out, as it is now, by a way that `is_reachable`.
INLINE int leave(context_t *context, struct bpf_fib_lookup *look, long found)
{
	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		if (links_set(context, look->dmac, look->smac))
			return stop(VERDICT_SHORT, DROP);
		return bpf_redirect(look->ifindex, 0);
	}
#ifdef TCX
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		struct bpf_redir_neigh next = {.nh_family = look->family};
		if (look->family == AF_INET6)
			__builtin_memcpy(next.ipv6_nh, look->ipv6_dst, 16);
		else
			next.ipv4_nh = look->ipv4_dst;
		return bpf_redirect_neigh(look->ifindex, &next, sizeof(next), 0);
	}
#endif
	return stop(VERDICT_NO_NEIGHBOUR, DROP);
}

// Why there is no way. With XDP, a packet whose neighbour is not known goes up the stack, which asks (`up`: it may, since
// it does not end here).
INLINE int no_way(long found, int up)
{
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return stop(VERDICT_NO_NEIGHBOUR, up ? PASS : DROP);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return stop(VERDICT_TOO_LARGE, up ? PASS : DROP);             // ICMP of the stack is about what it was made
	return stop(VERDICT_NO_ROUTE, up ? PASS : DROP);
}

INLINE int forward(context_t *context, const struct packet *packet, struct bpf_fib_lookup *look, long found, int up)
{
	if (!is_reachable(found))
		return no_way(found, up);
	if (hop(context, packet))
		return stop(VERDICT_EXPIRED, DROP);
	return leave(context, look, found);
}

// Of socket buffers the kernel may know a checksum of all that is in them, which has to stay right.
INLINE long put(context_t *context, __u32 offset, const void *from, const __u32 size)
{
#ifdef TCX
	return bpf_skb_store_bytes(context, offset, from, size, offset ? BPF_F_RECOMPUTE_CSUM : 0);
#else
	void *to = at(context, offset);
	if (to + size > end_of(context))
		return -1;
	__builtin_memcpy(to, from, size);
	return 0;
#endif
}

INLINE __u16 header_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u64 sum = 0;
	for (int i = 0; i < 10; i++)
		sum += words[i];
	return ~folded(sum);
}

#define TOO_LARGE (-2)                // no action of a program

#include "too_large.h"
#include "tunnel.h"

// ---- choosing ----

INLINE struct backend *backend_at(__u32 index)
{
	return bpf_map_lookup_elem(&backends, &index);
}

INLINE int slot_backend(const struct service *service, __u64 hash, __u32 *chosen)
{
	if (!service->slot_count)
		return -1;
	__u32 slot = hash % service->slot_count, word = service->first_word + (slot >> 2);
	__u64 *four = bpf_map_lookup_elem(&slots, &word);
	if (!four)
		return -1;
	*chosen = *four >> (slot & 3) * 16 & 0xffff;
	return 0;
}

struct choice {
	__u32 index;
	__u32 incarnation;
};

// Where its flow goes already; -1 when nobody knows, or its backend is another one now, or has been given up.
INLINE int known_flow(void *flows, const struct flow_key *key, __u64 now, int ends, struct choice *choice)
{
	struct flow *flow = bpf_map_lookup_elem(flows, key);
	if (!flow)
		return -1;
	struct backend *backend = backend_at(flow->backend);
	if (!backend || backend->incarnation != flow->incarnation || backend->flags & BACKEND_LEFT)
		return -1;
	choice->index = flow->backend;
	choice->incarnation = flow->incarnation;
	if (now - flow->seen > 1000000000ULL)
		flow->seen = now;
	if (ends)
		flow->ended = 1;
	return 0;
}

INLINE void remember(void *flows, const struct flow_key *key, __u64 now, const struct choice *choice, __u32 number,
					 __u64 how)
{
	struct flow flow = {.backend = choice->index, .incarnation = choice->incarnation, .seen = now, .number = number};
	bpf_map_update_elem(flows, key, &flow, how);
}

// By the service's table.
INLINE enum verdict choose_anew(const struct packet *packet, const struct service *service, struct choice *choice)
{
	__u64 hash = packet->quic_hash;
	if (!packet->has_quic_hash)
		hash = packet->v6 ? hash_v6(packet, service) : hash_v4(packet, service);
	if (slot_backend(service, hash, &choice->index))
		return VERDICT_NO_BACKEND;
	struct backend *backend = backend_at(choice->index);
	if (!backend)
		return VERDICT_NO_BACKEND;
	if (packet->v6 == is_v4(&backend->address) && service->mode != MODE_TUNNEL)
		return VERDICT_NO_BACKEND;                                   // a name may mean another family now
	choice->incarnation = backend->incarnation;
	return VERDICT_FORWARDED;
}

#include "quic.h"

INLINE void *flows_of(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP ? (void *)&tcp_flows : (void *)&udp_flows;
}

// The backend of a packet that belongs to no known flow.
APART enum verdict choose_new(context_t *context, struct packet *packet, const struct service *service,
							  const struct flow_key *key, struct choice *choice)
{
	if (!packet || !service || !key || !choice)
		return VERDICT_NO_BACKEND;
	int tcp = packet->protocol == IPPROTO_TCP;
	__u64 now = bpf_ktime_get_coarse_ns();                           // as of the last tick: reading it costs nothing
	if (tcp && !packet->is_syn && !packet->is_error && !known_flow(&handshakes, key, now, 0, choice)) {
		packet->is_new = 1;
		remember(&tcp_flows, key, now, choice, service->number, BPF_ANY);
		bpf_map_delete_elem(&handshakes, key);
		return VERDICT_FORWARDED;
	}
	if (!tcp && service->hash_key == HASH_QUIC_CID && !quic_find(context, packet, service, choice)) {
		packet->is_new = 1;
		remember(&udp_flows, key, now, choice, service->number, BPF_ANY);
		return VERDICT_FORWARDED;
	}
	if (service->flags & SERVICE_LEFT)
		return VERDICT_OTHER;
	enum verdict verdict = choose_anew(packet, service, choice);
	if (verdict != VERDICT_FORWARDED || packet->is_error)
		return verdict;
	packet->is_new = !tcp;
	if (packet->is_syn)
		bpf_map_delete_elem(&tcp_flows, key);
	remember(tcp ? (void *)&handshakes : (void *)&udp_flows, key, now, choice, service->number, BPF_ANY);
	return VERDICT_FORWARDED;
}

// The backend of a packet to a service: VERDICT_FORWARDED and `choice`, or why there is none.
//
// A connection is a flow from its second packet on. Before that it is among the handshakes: so a flood of SYNs, or of
// other single packets, pushes out no flow, and a SYN that is sent again counts once. What an earlier connection of the
// same ports has left goes with the SYN, or else it would catch the ACK of this one's handshake.
INLINE enum verdict choose(context_t *context, struct packet *packet, const struct service *service,
						   struct choice *choice)
{
	struct flow_key key = {};
	key.client = packet->source;
	key.service = packet->destination;
	key.client_port = packet->source_port;
	key.service_port = packet->destination_port;
	if (packet->is_syn || known_flow(flows_of(packet), &key, bpf_ktime_get_coarse_ns(), packet->is_end, choice))
		return choose_new(context, packet, service, &key, choice);
	if (packet->protocol == IPPROTO_UDP && service->hash_key == HASH_QUIC_CID)
		quic_learn(context, packet, service, choice);
	return VERDICT_FORWARDED;
}

// ---- the program ----

INLINE void count_up(void *map, __u32 index, const struct packet *packet)
{
	struct counts *counts = bpf_map_lookup_elem(map, &index);
	if (!counts)
		return;
	counts->packets_up++;
	counts->bytes_up += packet->bytes;
	counts->flows += packet->is_new;
}

INLINE void count_down(void *map, __u32 index, const struct packet *packet)
{
	struct counts *counts = bpf_map_lookup_elem(map, &index);
	if (!counts)
		return;
	counts->packets_down++;
	counts->bytes_down += packet->bytes;
}

// Whether its client may not come in. Later packets of a flow are asked too: a ban ends it.
INLINE int is_denied(const struct packet *packet, const struct service *service)
{
	struct denied_key key = {.bits = 160, .number = service->number, .client = packet->source};
	__u32 number = service->number;
	if (!(service->flags & SERVICE_LISTS) || packet->is_error || !bpf_map_lookup_elem(&denied, &key))
		return 0;
	struct counts *counts = bpf_map_lookup_elem(&by_service, &number);
	if (counts)
		counts->denied++;
	return 1;
}

INLINE void fragment_key_fill(struct fragment_key *key, const struct packet *packet)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = packet->source;
	key->destination = packet->destination;
	key->id = packet->fragment_id;
	key->protocol = packet->protocol;
}

// TOO_LARGE: nothing has become of it yet, `packet->mtu` is what would fit.
APART int direct(context_t *context, struct packet *packet, const struct service *service,
				 const struct backend *backend)
{
	if (!packet || !service || !backend)
		return DROP;
	struct bpf_fib_lookup look;
	long found = look_up(context, packet, &packet->source, &backend->address, &look);
	int up = service->mode == MODE_NAT;                                 // the stack can fragment it
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED && !(up && may_be_fragmented(context, packet))) {
		packet->mtu = look.mtu_result;
		return TOO_LARGE;
	}
	if (up) {
		struct change change = {.from = packet->destination, .to = backend->address, .of_destination = 1};
		change.from_port = packet->destination_port;
		change.to_port = backend->port;
		if (rewrite(context, packet, &change))
			return stop(VERDICT_SHORT, DROP);
	}
	return forward(context, packet, &look, found, up);
}

INLINE int send(context_t *context, struct packet *packet, const struct service *service, __u32 index,
				const struct backend *backend)
{
	count_up(&by_service, service->number, packet);
	count_up(&by_backend, index, packet);
	int sent = service->mode == MODE_TUNNEL ? tunnel(context, packet, service, backend)
											: direct(context, packet, service, backend);
	return sent == TOO_LARGE ? too_large(context, packet) : sent;
}

// From a NAT backend, to a client, whom it sees as from the service. What a backend sends to this host itself (checks,
// sessions of the proxy) is none of ours.
APART int as_service(context_t *context, const struct packet *packet, const struct address *service, __be16 port)
{
	if (!packet || !service)
		return DROP;
	struct bpf_fib_lookup look;
	struct change change = {.from = packet->source, .to = *service, .of_destination = 0};
	change.from_port = packet->source_port;
	change.to_port = port;
	long found = look_up(context, packet, service, &packet->destination, &look);
	if (found == BPF_FIB_LKUP_RET_NOT_FWDED || found == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return stop(VERDICT_OTHER, PASS);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED && !may_be_fragmented(context, packet))
		return stop(VERDICT_TOO_LARGE, PASS);                            // the stack answers the backend
	if (rewrite(context, packet, &change))
		return stop(VERDICT_SHORT, DROP);
	count_verdict(VERDICT_ANSWER);
	return forward(context, packet, &look, found, 1);
}

INLINE int answer(context_t *context, const struct packet *packet)
{
	struct endpoint from = {.address = packet->source, .port = packet->source_port, .protocol = packet->protocol};
	struct answer *known = bpf_map_lookup_elem(&answers, &from);
	if (!known || packet->is_error)
		return stop(VERDICT_OTHER, PASS);
	struct endpoint seen = known->service;
	if (packet->part == PART_FIRST) {
		struct fragment_key key;
		struct fragment later = {.is_answer = 1, .to = seen.address};
		fragment_key_fill(&key, packet);
		bpf_map_update_elem(&fragments, &key, &later, BPF_ANY);
	}
	__u32 number = known->number, backend = known->backend;
	int verdict = as_service(context, packet, &seen.address, seen.port);
	if (verdict != PASS) {
		count_down(&by_service, number, packet);
		count_down(&by_backend, backend, packet);
	}
	return verdict;
}

// It has no ports: it goes where the first one went.
INLINE int later_fragment(context_t *context, struct packet *packet)
{
	struct fragment_key key;
	fragment_key_fill(&key, packet);
	struct fragment *first = bpf_map_lookup_elem(&fragments, &key);
	if (!first)
		return stop(VERDICT_OTHER, PASS);
	struct fragment known = *first;
	if (known.is_answer)
		return as_service(context, packet, &known.to, 0);
	struct endpoint key_ = {.address = packet->destination, .port = known.service_port, .protocol = packet->protocol};
	struct service *service = bpf_map_lookup_elem(&services, &key_);
	struct backend *backend = backend_at(known.backend);
	if (!service || !backend || backend->incarnation != known.incarnation)
		return stop(VERDICT_NO_BACKEND, DROP);
	packet->source_port = known.client_port;
	packet->destination_port = known.service_port;
	return send(context, packet, service, known.backend, backend);
}

INLINE int balance(context_t *context)
{
	struct packet packet;
	if (parse(context, &packet))
		return stop(VERDICT_OTHER, PASS);
	if (packet.part == PART_LATER)
		return later_fragment(context, &packet);
	struct endpoint key = {.address = packet.destination, .port = packet.destination_port, .protocol = packet.protocol};
	struct service *service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return answer(context, &packet);
	if (is_denied(&packet, service))
		return stop(VERDICT_DENIED, DROP);
	struct choice choice = {};
	enum verdict verdict = choose(context, &packet, service, &choice);
	struct backend *backend = backend_at(choice.index);
	if (verdict == VERDICT_OTHER)
		return stop(VERDICT_OTHER, PASS);
	if (verdict != VERDICT_FORWARDED || !backend)
		return stop(VERDICT_NO_BACKEND, DROP);
	if (packet.part == PART_FIRST) {
		struct fragment_key fragment_key;
		struct fragment later = {.backend = choice.index, .incarnation = choice.incarnation};
		later.client_port = packet.source_port;
		later.service_port = packet.destination_port;
		fragment_key_fill(&fragment_key, &packet);
		bpf_map_update_elem(&fragments, &fragment_key, &later, BPF_ANY);
	}
	count_verdict(VERDICT_FORWARDED);
	return send(context, &packet, service, choice.index, backend);
}

#ifdef TCX
SEC("tc")
int l4lb_tcx(struct __sk_buff *context)
{
	return balance(context);
}
#else
SEC("xdp")
int l4lb_xdp(struct xdp_md *context)
{
	return balance(context);
}
#endif

char _license[] SEC("license") = "Dual BSD/GPL";
