// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Another address and port at one end of a packet, with its checksums made right by what changes (RFC 1624). Needs
// parse.h.

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

INLINE __u16 checksum_changed(__u16 checksum, __u64 change)
{
	return ~folded((__u64)(__u16)~checksum + change);
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

INLINE __u16 header_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u64 sum = 0;
	for (int i = 0; i < 10; i++)
		sum += words[i];
	return ~folded(sum);
}
