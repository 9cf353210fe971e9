// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The way out, by the kernel's routes and neighbours: looked up, one hop taken off, link addresses set, redirected.
// Needs maps.h (verdicts), parse.h and rewrite.h (checksums).

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

// For packets that this host sends as its own, and that may come in fragments.
INLINE __u32 next_id(void)
{
	__u32 zero = 0, *last = bpf_map_lookup_elem(&outer_ids, &zero);
	return last ? __sync_fetch_and_add(last, 1) : 0;
}

#define TOO_LARGE (-2)                // no action of a program
