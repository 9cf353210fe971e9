// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// A packet's headers: whom it is from and for, and what else of it decides where it goes. Of an ICMP error, the same
// of the packet that it is about. Needs context.h and layout.h.

struct packet {
	struct address source, destination;   // the client's and the service's; of an ICMP error: of the packet it is about
	__be16 source_port, destination_port; // 0 in a later fragment
	__u32 l3, l4;                         // where these headers begin
	__u32 bytes, device, fragment_id;
	__u32 mtu;                            // that it would have to fit, when it does not
	__u32 sent_id;                        // of a fragment, by full NAT: in place of fragment_id
	__u8 protocol;
	__u8 v6;
	__u8 part;                            // enum part
	__u8 is_error;                        // an ICMP error
	__u8 hops;                            // that it has left
	__u8 is_syn;
	__u8 is_end;                          // FIN or RST
	__u8 is_reset;
	__u8 is_new;                          // a flow begins with it
	__u8 has_quic_hash;
	__u64 quic_hash;                      // of the connection id that its client drew, see quic.h
};

enum part { PART_WHOLE, PART_FIRST, PART_LATER };

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
		packet->is_reset = tcp->rst;
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
