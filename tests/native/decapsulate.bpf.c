// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The backend's end of a tunnel, for tests on hosts whose kernel has none: takes IPIP and GUE (port 6080) headers off,
// each family in each. Written from the RFCs, apart from what it is to check.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define GUE_PORT 6080

// Bytes of UDP and GUE, and what is behind; 0: it is no such packet.
static __always_inline int gue_bytes(void *at, void *end, __u8 *protocol)
{
	__u8 *bytes = at;
	if (at + 12 > end || *(__be16 *)(at + 2) != bpf_htons(GUE_PORT) || bytes[8])
		return 0;
	*protocol = bytes[9];
	return 12;
}

static __always_inline int strip(struct xdp_md *context, int bytes, __be16 kind)
{
	struct ethhdr before, *ethernet = (void *)(long)context->data;
	if ((void *)(ethernet + 1) > (void *)(long)context->data_end)
		return XDP_DROP;
	before = *ethernet;
	if (bpf_xdp_adjust_head(context, bytes))
		return XDP_DROP;
	ethernet = (void *)(long)context->data;
	if ((void *)(ethernet + 1) > (void *)(long)context->data_end)
		return XDP_DROP;
	*ethernet = before;
	ethernet->h_proto = kind;
	return XDP_PASS;
}

SEC("xdp")
int decapsulate(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = (void *)(long)context->data;
	struct iphdr *v4 = (void *)(ethernet + 1);
	struct ipv6hdr *v6 = (void *)(ethernet + 1);
	__u8 protocol;
	int bytes, inside = 0;
	if ((void *)(v4 + 1) > end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		protocol = v4->protocol;
		bytes = sizeof(*v4);
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(v6 + 1) <= end) {
		protocol = v6->nexthdr;
		bytes = sizeof(*v6);
	} else {
		return XDP_PASS;
	}
	if (protocol == IPPROTO_UDP)
		inside = gue_bytes((void *)v4 + bytes, end, &protocol);
	if (protocol == IPPROTO_IPIP)
		return strip(context, bytes + inside, bpf_htons(ETH_P_IP));
	if (protocol == IPPROTO_IPV6)
		return strip(context, bytes + inside, bpf_htons(ETH_P_IPV6));
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
