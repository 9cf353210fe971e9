// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The mode tunnel: a packet as the client sent it, one hop less, behind an IP header from this host to the backend
// (IPIP: RFC 2003, RFC 4213, RFC 2473; any family in any), or behind such a header, one of UDP and one of GUE, version 0
// (draft-ietf-intarea-gue). Needs too_large.h, and what that needs.

#define OUTER_HOPS 64

// What a packet gets in front, and what of the packet decides that.
struct outer {
	__u32 bytes;                   // of all headers in front
	__u32 inside;                  // bytes of the packet, from its IP header on
	__u32 segment;                 // the same of the largest one that it is sent as: the kernel may hold a train as one
	__u32 mtu;                     // of the way out
	__be16 gue_port;               // 0: IPIP
	__be16 source_port;            // of GUE
	__u8 protocol;                 // of the outer IP header
	__u8 traffic_class;            // DSCP and ECN (RFC 6040, normal mode)
	__u8 dont_fragment;
	__u8 v6;
	__u8 is_stream;                // a train of TCP, which the kernel may cut anew
};

INLINE int inner_read_v4(context_t *context, struct outer *outer)
{
	struct iphdr *ip = at(context, sizeof(struct ethhdr));
	if ((void *)(ip + 1) > end_of(context))
		return -1;
	outer->traffic_class = ip->tos;
	outer->dont_fragment = (ip->frag_off & bpf_htons(0x4000)) != 0;
	outer->inside = bpf_ntohs(ip->tot_len);
	return 0;
}

INLINE int inner_read_v6(context_t *context, struct outer *outer)
{
	struct ipv6hdr *ip = at(context, sizeof(struct ethhdr));
	if ((void *)(ip + 1) > end_of(context))
		return -1;
	outer->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	outer->dont_fragment = 1;
	outer->inside = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	return 0;
}

// So that network cards and links behind this host can tell flows apart: one for all packets of a flow, its fragments and
// the errors about it too, from the ports that nobody listens on (RFC 6335).
INLINE __be16 flow_port(const struct packet *packet)
{
	__u64 hash = (__u64)packet->destination_port << 16 | packet->source_port;
	for (int i = 0; i < 4; i++)
		hash = rotated((hash ^ packet->source.words[i]) * XXH_PRIME_1, 31);
	return bpf_htons(0xc000 | hash * XXH_PRIME_2 >> 50);
}

INLINE void outer_set_protocol(const struct packet *packet, const struct service *service, struct outer *outer)
{
	outer->protocol = packet->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	if (!service->gue_port)
		return;
	outer->protocol = IPPROTO_UDP;
	outer->gue_port = service->gue_port;
	outer->source_port = flow_port(packet);
	outer->bytes += sizeof(struct gue);
}

// 0, or -1 when the packet ends too early, or says that it is longer than it is.
INLINE int outer_fill(context_t *context, const struct packet *packet, const struct service *service,
					  const struct backend *backend, struct outer *outer)
{
	__builtin_memset(outer, 0, sizeof(*outer));
	outer->v6 = !is_v4(&backend->address);
	outer->bytes = outer->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	outer_set_protocol(packet, service, outer);
	if (packet->v6 ? inner_read_v6(context, outer) : inner_read_v4(context, outer))
		return -1;
	if (is_train(context)) {                                           // its length field says nothing that counts
		outer->inside = packet->bytes - packet->l3;
		outer->segment = segment_bytes(context, packet);
		outer->is_stream = packet->protocol == IPPROTO_TCP;
		return 0;
	}
	outer->segment = outer->inside;
	return outer->inside > packet->bytes - packet->l3 ? -1 : 0;
}

INLINE int has_source(const struct backend *backend)
{
	const __u32 *words = backend->source.words;
	return words[0] || words[1] || words[2] || words[3];
}

// As `look_up`, for the packet and what it gets in front. Of a stream it is enough when its segments fit that the kernel
// makes as small as they were, with the headers in them.
INLINE long outer_look_up(context_t *context, const struct packet *packet, const struct backend *backend,
						  const struct outer *outer, struct bpf_fib_lookup *look)
{
	look_fill(look, packet, &backend->source, &backend->address);
	look->l4_protocol = outer->protocol;
	look->tot_len = outer->is_stream ? outer->segment : outer->bytes + outer->segment;
	return bpf_fib_lookup(context, look, sizeof(*look), 0);
}

// Make room between the Ethernet header and the packet; 0 or negative.
INLINE long outer_grow(context_t *context, const struct outer *outer)
{
#ifdef TCX
	__u64 how = outer->v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (!outer->is_stream || outer->bytes + outer->segment <= outer->mtu)      // else its segments get smaller
		how |= BPF_F_ADJ_ROOM_FIXED_GSO;
	if (outer->gue_port)
		how |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	return bpf_skb_adjust_room(context, outer->bytes, BPF_ADJ_ROOM_MAC, how);
#else
	return bpf_xdp_adjust_head(context, -(int)outer->bytes);
#endif
}

// Of a packet that may be fragmented on its way: no two of 65,536 have the same (RFC 6864). Others need none.
INLINE __be16 outer_id(const struct outer *outer)
{
	return outer->dont_fragment ? 0 : bpf_htons(next_id());
}

INLINE long outer_put_v4(context_t *context, const struct backend *backend, const struct outer *outer)
{
	struct iphdr ip = {.version = 4, .ihl = 5, .ttl = OUTER_HOPS, .tos = outer->traffic_class};
	ip.tot_len = bpf_htons(outer->bytes + outer->inside);
	ip.protocol = outer->protocol;
	ip.saddr = backend->source.words[3];
	ip.daddr = backend->address.words[3];
	ip.id = outer_id(outer);
	ip.frag_off = outer->dont_fragment ? bpf_htons(0x4000) : 0;
	ip.check = header_checksum(&ip);
	return put(context, sizeof(struct ethhdr), &ip, sizeof(ip));
}

INLINE long outer_put_v6(context_t *context, const struct backend *backend, const struct outer *outer)
{
	struct ipv6hdr ip = {.version = 6, .hop_limit = OUTER_HOPS};
	ip.priority = outer->traffic_class >> 4;
	ip.flow_lbl[0] = outer->traffic_class << 4;
	ip.payload_len = bpf_htons(outer->bytes - sizeof(ip) + outer->inside);
	ip.nexthdr = outer->protocol;
	__builtin_memcpy(&ip.saddr, &backend->source, 16);
	__builtin_memcpy(&ip.daddr, &backend->address, 16);
	return put(context, sizeof(struct ethhdr), &ip, sizeof(ip));
}

// Without a checksum, over IPv6 too (RFC 6935, RFC 6936): it would cover what has checksums of its own.
INLINE long gue_put(context_t *context, const struct packet *packet, const struct outer *outer)
{
	struct gue gue = {.source = outer->source_port, .destination = outer->gue_port};
	__u32 offset = sizeof(struct ethhdr) + (outer->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	gue.protocol = packet->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	gue.length = bpf_htons(sizeof(gue) + outer->inside);
	return put(context, offset, &gue, sizeof(gue));
}

INLINE long outer_put(context_t *context, const struct packet *packet, const struct backend *backend,
					  const struct outer *outer)
{
	__be16 kind = outer->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (put(context, offsetof(struct ethhdr, h_proto), &kind, sizeof(kind)))
		return -1;
	if (outer->v6 ? outer_put_v6(context, backend, outer) : outer_put_v4(context, backend, outer))
		return -1;
	return outer->gue_port ? gue_put(context, packet, outer) : 0;
}

// TOO_LARGE as by `direct`.
APART int tunnel(context_t *context, struct packet *packet, const struct service *service,
				 const struct backend *backend)
{
	if (!packet || !service || !backend)
		return DROP;
	struct outer outer;
	struct bpf_fib_lookup look;
	if (outer_fill(context, packet, service, backend, &outer))
		return stop(VERDICT_SHORT, DROP);
	if (!has_source(backend))
		return stop(VERDICT_NO_ROUTE, DROP);
	long found = outer_look_up(context, packet, backend, &outer, &look);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		packet->mtu = look.mtu_result - outer.bytes;
		return TOO_LARGE;
	}
	if (!is_reachable(found))
		return no_way(found, 0);
	if (outer.bytes + outer.inside > 0xffff)                            // a train, which comes again in other pieces
		return stop(VERDICT_TOO_LARGE, DROP);
	if (hop(context, packet))
		return stop(VERDICT_EXPIRED, DROP);
	outer.mtu = look.mtu_result;
	if (outer_grow(context, &outer) || outer_put(context, packet, backend, &outer))
		return stop(VERDICT_NO_ROOM, DROP);
	return leave(context, &look, found);
}
