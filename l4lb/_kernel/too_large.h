// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What a client hears whose packet does not fit the way to its backend and may not be fragmented: from the service's
// address, how large a packet may be (RFC 1191, RFC 8201). Needs route.h, and what that needs.

#define ANSWERS_A_SECOND 1000            // of each CPU
#define SMALLEST_V6 1280                 // what every link has to take
#define QUOTE_V4 (576 - 20 - 8)          // of the packet: RFC 1812, section 4.3.2.3
#define QUOTE_V6 (SMALLEST_V6 - 40 - 8)  // RFC 4443, section 3.2
#define ICMP_HOPS 64
#define ICMP_TRAFFIC_CLASS 0xc0          // internetwork control: RFC 1812, section 4.3.2.5

struct answer_rate {
	__u64 second, count;
};

MAP(answer_rates, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct answer_rate, 1, 0);

INLINE int is_within_rate(void)
{
	__u32 zero = 0;
	__u64 second = bpf_ktime_get_ns() / 1000000000;
	struct answer_rate *rate = bpf_map_lookup_elem(&answer_rates, &zero);
	if (!rate)
		return 0;
	if (rate->second != second) {
		rate->second = second;
		rate->count = 0;
	}
	return rate->count++ < ANSWERS_A_SECOND;
}

INLINE int may_be_fragmented(context_t *context, const struct packet *packet)
{
	struct iphdr *ip = at(context, sizeof(struct ethhdr));
	if (packet->v6 || (void *)(ip + 1) > end_of(context))
		return 0;
	return !(ip->frag_off & bpf_htons(0x4000));
}

// RFC 1122, section 3.2.2, and RFC 4443, section 2.4: one host, and by a frame that was for one.
INLINE int is_of_one_host(context_t *context, const struct packet *packet)
{
	const __u32 *words = packet->source.words;
	__u32 first = bpf_ntohl(packet->v6 ? words[0] : words[3]) >> 24;
	struct ethhdr *ethernet = at(context, 0);
	if ((void *)(ethernet + 1) > end_of(context) || ethernet->h_dest[0] & 1)
		return 0;
	if (packet->v6)
		return first != 0xff && (words[0] || words[1] || words[2]);
	return first != 0 && first != 127 && first < 224;
}

INLINE int may_be_answered(context_t *context, const struct packet *packet)
{
	if (packet->is_error || !is_of_one_host(context, packet))
		return 0;
	if (packet->v6 ? packet->bytes - packet->l3 <= SMALLEST_V6 : packet->part == PART_LATER)
		return 0;
	return !may_be_fragmented(context, packet) && is_within_rate();
}

// How much of the packet comes back: whole words, for sum_of_words.
INLINE __u32 quoted_bytes(const struct packet *packet)
{
	__u32 most = packet->v6 ? QUOTE_V6 : QUOTE_V4, bytes = packet->bytes - packet->l3;
	return (bytes < most ? bytes : most) & ~3;
}

// Of what is put before that, without Ethernet.
INLINE __u32 front_bytes(const struct packet *packet)
{
	return sizeof(struct icmp) + (packet->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

// Nothing but that, with room for the headers before it. 0, or negative.
INLINE long cut_out(context_t *context, const struct packet *packet)
{
	__u32 front = front_bytes(packet), bytes = sizeof(struct ethhdr) + quoted_bytes(packet);
#ifdef TCX
	if (bpf_skb_change_tail(context, bytes, 0) || bpf_skb_adjust_room(context, front, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	return bpf_skb_pull_data(context, bytes + front);
#else
	if (bpf_xdp_adjust_tail(context, (int)bytes - (int)packet->bytes))
		return -1;
	return bpf_xdp_adjust_head(context, -(int)front);
#endif
}

// Of all words from `offset` to the end, of which there are whole ones alone, and at most `most`.
INLINE __u64 sum_of_words(context_t *context, __u32 offset, const int most)
{
	__u64 sum = 0;
	__u32 *word = at(context, offset);
	void *end = end_of(context);
	for (int i = 0; i < most; i++, word++) {
		if ((void *)(word + 1) > end)
			break;
		sum += *word;
	}
	return sum;
}

#ifdef TCX

// Whether the checksum in what is quoted, at `offset`, is still to be made. The kernel leaves such a one as it is.
INLINE int is_unfinished(context_t *context, __u32 offset, __u16 *start)
{
	__u16 changed;
	if (load(context, offset, start, sizeof(*start)))
		return 0;
	if (bpf_l4_csum_replace(context, offset, 0, bpf_htons(1), sizeof(changed)))
		return 0;
	if (load(context, offset, &changed, sizeof(changed)))
		return 0;
	return !bpf_skb_store_bytes(context, offset, start, sizeof(*start), 0) && changed == *start;
}

// The sum of ICMP's words once a network card has made the checksum that the client left to it: over everything from
// `quoted` on. With it, the sum of that part is the complement of what the checksum starts from.
INLINE __u64 sum_when_finished(context_t *context, const struct packet *packet, const __u32 quoted, __u64 sum)
{
	__u16 start = 0;
	if (packet->part != PART_WHOLE)                                      // nobody leaves those of fragments
		return sum;
	if (!is_unfinished(context, quoted + (packet->protocol == IPPROTO_TCP ? 16 : 6), &start))
		return sum;
	__u16 unfinished = folded(sum_of_words(context, quoted, QUOTE_V6 / 4));
	return sum + (__u16)~unfinished + (__u16)~start;
}

#else
#define sum_when_finished(context, packet, quoted, sum) (sum)            // XDP sees nothing but bytes
#endif

INLINE long put_error_v4(context_t *context, const struct packet *packet)
{
	struct iphdr ip = {};
	struct icmp icmp = {};
	const __u32 at_icmp = sizeof(struct ethhdr) + sizeof(ip);
	icmp.type = ICMP_UNREACHABLE;
	icmp.code = ICMP_FRAGMENTATION_NEEDED;
	icmp.rest = bpf_htonl(packet->mtu);
	ip.version = 4;
	ip.ihl = 5;
	ip.ttl = ICMP_HOPS;
	ip.tos = ICMP_TRAFFIC_CLASS;
	ip.protocol = IPPROTO_ICMP;
	ip.tot_len = bpf_htons(sizeof(ip) + sizeof(icmp) + quoted_bytes(packet));
	ip.frag_off = bpf_htons(0x4000);
	ip.saddr = packet->destination.words[3];
	ip.daddr = packet->source.words[3];
	ip.check = header_checksum(&ip);
	if (put(context, sizeof(struct ethhdr), &ip, sizeof(ip)) || put(context, at_icmp, &icmp, sizeof(icmp)))
		return -1;
	__u64 sum = sum_of_words(context, at_icmp, (sizeof(icmp) + QUOTE_V4) / 4);
	icmp.checksum = ~folded(sum_when_finished(context, packet, at_icmp + sizeof(icmp) + sizeof(ip), sum));
	return put(context, at_icmp, &icmp, sizeof(icmp));
}

INLINE long put_error_v6(context_t *context, const struct packet *packet)
{
	struct ipv6hdr ip = {};
	struct icmp icmp = {};
	const __u32 at_icmp = sizeof(struct ethhdr) + sizeof(ip), at_addresses = sizeof(struct ethhdr) + 8;
	icmp.type = ICMP6_TOO_BIG;
	ip.version = 6;
	ip.hop_limit = ICMP_HOPS;
	ip.nexthdr = IPPROTO_ICMPV6;
	icmp.rest = bpf_htonl(packet->mtu < SMALLEST_V6 ? SMALLEST_V6 : packet->mtu);
	ip.payload_len = bpf_htons(sizeof(icmp) + quoted_bytes(packet));
	__builtin_memcpy(&ip.saddr, &packet->destination, 16);
	__builtin_memcpy(&ip.daddr, &packet->source, 16);
	if (put(context, sizeof(struct ethhdr), &ip, sizeof(ip)) || put(context, at_icmp, &icmp, sizeof(icmp)))
		return -1;
	__u64 sum = sum_of_words(context, at_addresses, (32 + sizeof(icmp) + QUOTE_V6) / 4);
	sum = sum_when_finished(context, packet, at_icmp + sizeof(icmp) + sizeof(ip), sum);
	icmp.checksum = ~folded(sum + ip.payload_len + bpf_htons(IPPROTO_ICMPV6));
	return put(context, at_icmp, &icmp, sizeof(icmp));
}

// `packet->mtu` is what would fit.
APART int too_large(context_t *context, const struct packet *packet)
{
	if (!packet)
		return DROP;
	struct bpf_fib_lookup look;
	__be16 kind = packet->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (!may_be_answered(context, packet))
		return stop(VERDICT_TOO_LARGE, DROP);
	look_fill(&look, packet, &packet->destination, &packet->source);
	look.tot_len = front_bytes(packet) + quoted_bytes(packet);
	long found = bpf_fib_lookup(context, &look, sizeof(look), 0);
	if (!is_reachable(found))
		return stop(VERDICT_TOO_LARGE, DROP);
	if (cut_out(context, packet) || put(context, offsetof(struct ethhdr, h_proto), &kind, sizeof(kind)))
		return stop(VERDICT_TOO_LARGE, DROP);
	if (packet->v6 ? put_error_v6(context, packet) : put_error_v4(context, packet))
		return stop(VERDICT_TOO_LARGE, DROP);
	count_verdict(VERDICT_TOO_LARGE_ANSWERED);
	return leave(context, &look, found);
}
