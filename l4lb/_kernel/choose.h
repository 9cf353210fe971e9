// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The backend of a packet to a service: where its flow goes already, or else by QUIC's connection ids, or by the
// service's table. Needs hash.h, flows.h and quic.h.

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
	if (packet->is_error && service->source)                         // one without a port is nobody's
		return known_flow(&handshakes, key, now, 0, choice) ? VERDICT_OTHER : VERDICT_FORWARDED;
	if (!tcp && service->hash_key == HASH_QUIC_CID && !quic_find(context, packet, service, choice)) {
		packet->is_new = 1;
		source_choose(packet, service, key, choice);
		remember(&udp_flows, key, now, choice, service->number, BPF_ANY);
		return VERDICT_FORWARDED;
	}
	if (service->flags & SERVICE_LEFT)
		return VERDICT_OTHER;
	enum verdict verdict = choose_anew(packet, service, choice);
	if (verdict != VERDICT_FORWARDED || packet->is_error)
		return verdict;
	packet->is_new = !tcp;
	source_choose(packet, service, key, choice);
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
