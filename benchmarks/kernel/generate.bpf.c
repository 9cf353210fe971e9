// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What generate.c makes packets with, and what takes them: datagrams of as many clients as wanted, each in turn, from
// BPF_PROG_TEST_RUN with live frames; and a sink, which counts and drops.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "generate.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// A frame comes back to be sent again as the last one who had it left it: it is written anew as a whole.
SEC("xdp")
int generate(struct xdp_md *context)
{
	__u32 zero = 0;
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct settings *wanted = bpf_map_lookup_elem(&settings, &zero);
	struct counts *counted = bpf_map_lookup_elem(&counts, &zero);
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	if (data + FRAME_BYTES > end || !wanted || !counted || !wanted->flows)
		return XDP_ABORTED;
	__builtin_memcpy(data, wanted->frame, FRAME_BYTES);
	__u32 flow = counted->sent++ % wanted->flows;
	ip->saddr = bpf_htonl(FIRST_CLIENT + flow / PORTS);
	udp->source = bpf_htons(FIRST_PORT + flow % PORTS);
	__u32 source = (ip->saddr & 0xffff) + (ip->saddr >> 16);
	ip->check = ~folded(wanted->ip_sum + source);
	udp->check = ~folded(wanted->udp_sum + source + udp->source);
	return XDP_TX;
}

SEC("xdp")
int sink(struct xdp_md *context)
{
	__u32 zero = 0;
	struct counts *counted = bpf_map_lookup_elem(&counts, &zero);
	if (counted)
		__sync_fetch_and_add(&counted->taken, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
