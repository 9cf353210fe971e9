// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What outlives a packet. Control writes `services`, `slots`, `backends`, `answers`, `denied`, `places`, `numbers` and
// full_nat.h's `sources`; the programs write flows, fragments and counts. The maps of one header alone are there
// (too_large.h, quic.h, full_nat.h). Needs context.h and layout.h.

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
MAP(outer_ids, BPF_MAP_TYPE_ARRAY, __u32, __u32, 1, 0);                   // the last one that was given
MAP(verdicts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, VERDICT_COUNT, 0);

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
