// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Where known flows go. An entry counts while its backend is the one that it was made for. Needs maps.h and parse.h.

INLINE struct backend *backend_at(__u32 index)
{
	return bpf_map_lookup_elem(&backends, &index);
}

struct choice {
	__u32 index;
	__u32 incarnation;
	__be16 port;                   // by full NAT, as in flows
	__u8 source;
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
	choice->source = flow->source;
	choice->port = flow->port;
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
	flow.source = choice->source;
	flow.port = choice->port;
	bpf_map_update_elem(flows, key, &flow, how);
}

INLINE void *flows_of(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP ? (void *)&tcp_flows : (void *)&udp_flows;
}

// What its backend is to see a flow from that begins, or goes to another backend. It keeps its port: a SYN that is sent
// again, or that a stranger has sent in its client's name, is to look the same.
INLINE void source_choose(const struct packet *packet, const struct service *service, const struct flow_key *key,
						  struct choice *choice)
{
	if (!service->source)
		return;
	struct flow *before = bpf_map_lookup_elem(flows_of(packet), key);
	if (!before && packet->protocol == IPPROTO_TCP)
		before = bpf_map_lookup_elem(&handshakes, key);
	choice->source = service->source;
	choice->port = before && before->source == service->source ? before->port : 0;
}
