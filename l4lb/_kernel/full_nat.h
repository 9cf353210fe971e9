// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Full NAT: backends see an address of this host, and a port of it for each flow, so that their answers come here
// whatever their routes are. Needs choose.h, and what that needs.
//
// A translation says whose a port is, as a backend sees it: each backend has all ports for itself. It is made by the
// first packet of a flow, and is among the new ones until the client's second packet (a SYN that is sent again is none).
// The entry in the map decides: there can be one of a key, and each packet of a client makes sure that it is still its
// flow's.
//
//   free --first packet--> new --second packet--> kept --RST, or FIN of both sides--> over
//
// Where all ports that are tried are in use, one is taken from another flow: one that is new, over for two seconds, or
// idle for longer than its listener's idle_timeout; of these the one that was heard of longest ago. So a flood of SYNs,
// or of single datagrams, takes no port from a flow that is kept. It can take those of handshakes that are not complete,
// the oldest first, as among the handshakes of choose.h.
//
// Translations and flows are pushed out apart from each other, where there are more than maps have room for. A flow
// without its translation gets it back with its client's next packet, if nobody has that port by then; until then answers
// go up the stack, which resets their connection. One that is pushed out itself goes on from another port.

#define PORT_TRIES 64                 // with nine of ten ports in use, one flow of a thousand finds none
#define PORT_TRIES_FOR_FREE 16        // before one is taken from another flow
#define SECOND_NS 1000000000ULL
#define OVER_NS (2 * SECOND_NS)       // `seen` may be a second old

enum ended { ENDED_UP = 1, ENDED_DOWN = 2, ENDED_RESET = 4 };

MAP(sources, BPF_MAP_TYPE_ARRAY, __u32, struct source, SOURCES_MAX, 0);   // control writes them; they do not change
MAP(translations, BPF_MAP_TYPE_LRU_HASH, struct translation_key, struct translation, TRANSLATIONS_MAX, 0);
MAP(new_translations, BPF_MAP_TYPE_LRU_HASH, struct translation_key, struct translation, HANDSHAKES_MAX, 0);

INLINE struct source *source_at(__u32 index)
{
	return bpf_map_lookup_elem(&sources, &index);
}

// Where no listener has ever had one, what goes up the stack is not held up. Numbers are given from 1 on.
INLINE int any_source(void)
{
	struct source *first = source_at(1);
	return first && first->port_count;
}

INLINE struct translation *translation_find(const struct translation_key *key)
{
	struct translation *known = bpf_map_lookup_elem(&translations, key);
	return known ? known : bpf_map_lookup_elem(&new_translations, key);
}

INLINE int is_of_flow(const struct translation *known, const struct flow_key *flow)
{
	const __u32 *words = (const __u32 *)&known->flow, *others = (const __u32 *)flow;
	__u32 difference = 0;
	for (int i = 0; i < (int)(sizeof(*flow) / sizeof(*words)); i++)
		difference |= words[i] ^ others[i];
	return !difference;
}

// `end`: what a FIN of this direction means. A packet after a RST shows that its receiver did not take the RST.
INLINE void translation_note(struct translation *known, const struct packet *packet, __u64 now, __u8 end)
{
	if (packet->is_end || known->ended & ENDED_RESET)
		known->ended = (known->ended & ~ENDED_RESET) | (packet->is_reset ? ENDED_RESET : packet->is_end ? end : 0);
	if (packet->is_end || (__s64)(now - known->seen) > (__s64)SECOND_NS)
		known->seen = now;
}

// ---- ports ----

INLINE int is_of_service(const struct translation_key *key)
{
	struct endpoint endpoint = {.address = key->source, .port = key->source_port, .protocol = key->protocol};
	return bpf_map_lookup_elem(&services, &endpoint) != NULL;
}

// Have a port that nobody has. 0, or -1: somebody was faster, or answers would be taken for a service's clients. Another
// CPU may make a kept one of a new one meanwhile, which is in both maps for a moment, and never in none.
INLINE int port_claim(const struct translation_key *key, const struct translation *made)
{
	if (is_of_service(key) || bpf_map_update_elem(&new_translations, key, made, BPF_NOEXIST))
		return -1;
	if (!bpf_map_lookup_elem(&translations, key))
		return 0;
	bpf_map_delete_elem(&new_translations, key);
	return -1;
}

INLINE int is_idle(const struct translation *known, __u64 now)
{
	__u32 index = known->number;
	struct number *number = bpf_map_lookup_elem(&numbers, &index);
	__u64 idle_ns = number && number->idle_ns ? number->idle_ns : IDLE_DEFAULT_NS;
	return (__s64)(now - known->seen) > (__s64)idle_ns;
}

INLINE int is_over(const struct translation *known, __u64 now)
{
	int both = (known->ended & (ENDED_UP | ENDED_DOWN)) == (ENDED_UP | ENDED_DOWN);
	return (both || known->ended & ENDED_RESET) && (__s64)(now - known->seen) > (__s64)OVER_NS;
}

// From the flow that was heard of at `seen`. 0, or -1: it was heard of again, or another CPU has taken it. Whoever changes
// `seen` of a new one decides what becomes of it.
INLINE int port_take(const struct translation_key *key, const struct translation *made, __u64 seen)
{
	struct translation *known = translation_find(key);
	if (known && __sync_val_compare_and_swap(&known->seen, seen, made->seen) != seen)
		return -1;
	bpf_map_delete_elem(&translations, key);
	bpf_map_delete_elem(&new_translations, key);
	return port_claim(key, made);
}

// Into `key`. 0, or -1 when none is free.
INLINE int port_choose(struct translation_key *key, const struct translation *made, const struct source *source)
{
	__u64 oldest = made->seen;
	__be16 found = 0;
	for (int i = 0; i < PORT_TRIES && !(found && i >= PORT_TRIES_FOR_FREE); i++) {
		__u32 nth = source->port_count ? bpf_get_prandom_u32() % source->port_count : 0;
		key->source_port = bpf_htons(source->first_port + nth);
		struct translation *kept = bpf_map_lookup_elem(&translations, key), *known = kept;
		if (!kept)
			known = bpf_map_lookup_elem(&new_translations, key);
		if (!known && !port_claim(key, made))
			return 0;
		if (known && known->seen < oldest && (!kept || is_over(known, made->seen) || is_idle(known, made->seen))) {
			oldest = known->seen;
			found = key->source_port;
		}
	}
	key->source_port = found;
	return found ? port_take(key, made, oldest) : -1;
}

// Whether the port of `key` is this flow's, from now on if it was nobody's: 0, or -1.
INLINE int port_hold(const struct packet *packet, const struct translation_key *key, struct translation *made)
{
	struct translation *known = bpf_map_lookup_elem(&translations, key);
	if (!known) {
		struct translation *fresh = bpf_map_lookup_elem(&new_translations, key);
		if (!fresh)
			return port_claim(key, made);
		if (!is_of_flow(fresh, &made->flow))
			return -1;
		__u64 seen = fresh->seen;
		if (packet->is_syn)
			return 0;
		made->ended |= fresh->ended;
		if (__sync_val_compare_and_swap(&fresh->seen, seen, made->seen) == seen &&  // as in port_take: one of two has it
			!bpf_map_update_elem(&translations, key, made, BPF_NOEXIST)) {
			bpf_map_delete_elem(&new_translations, key);
			return 0;
		}
		known = bpf_map_lookup_elem(&translations, key);                 // of another packet of this flow, most likely
		if (!known)
			return -1;
	}
	if (!is_of_flow(known, &made->flow))
		return -1;
	translation_note(known, packet, made->seen, ENDED_UP);
	return 0;
}

INLINE void flow_set_port(struct flow *flow, const struct choice *choice)
{
	if (!flow)
		return;
	flow->source = choice->source;
	flow->port = choice->port;
}

// Make sure that the packet's flow has a port, in `choice`. 0, or -1 when there is none.
APART int keep_port(const struct packet *packet, const struct service *service, struct choice *choice)
{
	if (!packet || !service || !choice)
		return -1;
	struct source *source = source_at(choice->source);
	struct backend *backend = backend_at(choice->index);
	if (!source || !backend)
		return -1;
	if (packet->is_error)
		return choice->port ? 0 : -1;
	struct translation_key key = {.backend = backend->address, .backend_port = backend->port};
	struct translation made = {.seen = bpf_ktime_get_ns(), .number = service->number, .backend = choice->index};
	key.source = source->address;
	key.source_port = choice->port;
	key.protocol = packet->protocol;
	made.flow.client = packet->source;
	made.flow.service = packet->destination;
	made.flow.client_port = packet->source_port;
	made.flow.service_port = packet->destination_port;
	made.incarnation = choice->incarnation;
	made.ended = packet->is_reset ? ENDED_RESET : packet->is_end ? ENDED_UP : 0;
	if (choice->port && !port_hold(packet, &key, &made))
		return 0;
	if (port_choose(&key, &made, source))
		return -1;
	choice->port = key.source_port;
	flow_set_port(bpf_map_lookup_elem(flows_of(packet), &made.flow), choice);
	if (packet->protocol == IPPROTO_TCP)
		flow_set_port(bpf_map_lookup_elem(&handshakes, &made.flow), choice);
	return 0;
}

// ---- addresses ----

// A checksum at `offset` made right for what has changed. 0, or negative.
APART long checksum_correct(context_t *context, __u32 offset, __u64 change)
{
	__u16 checksum;
	if (load(context, offset, &checksum, sizeof(checksum)))
		return -1;
	checksum = checksum_changed(checksum, change);
	return store(context, offset, &checksum, sizeof(checksum));
}

// Of an ICMP error: whom it is from, who may be any router, and whom the packet that it is about was for. ICMP's checksum
// covers what is within; the inner header's checksum and address cancel each other out.
APART int rewrite_error_source_v4(context_t *context, const struct change *change)
{
	const __u32 outer = sizeof(struct ethhdr), icmp = outer + sizeof(struct iphdr), inner = icmp + sizeof(struct icmp);
	__be32 router;
	if (!change || load(context, outer + 12, &router, 4))
		return -1;
	if (checksum_correct(context, outer + 10, (__u64)(__u32)~router + change->to.words[3]))
		return -1;
	if (checksum_correct(context, inner + 10, (__u64)(__u32)~change->from.words[3] + change->to.words[3]))
		return -1;
	if (checksum_correct(context, icmp + 2, port_change(change->from_port, change->to_port)))
		return -1;
	if (store(context, outer + 12, &change->to.words[3], 4) || store(context, inner + 16, &change->to.words[3], 4))
		return -1;
	return store(context, inner + sizeof(struct iphdr) + 2, &change->to_port, 2);
}

// ICMPv6's covers the outer addresses too.
APART int rewrite_error_source_v6(context_t *context, __u32 icmp, const struct change *change)
{
	const __u32 outer = sizeof(struct ethhdr);
	__u32 inner = icmp + sizeof(struct icmp);
	struct address router;
	if (!change || load(context, outer + 8, &router, 16))
		return -1;
	__u64 all = (__u64)address_change(&router, &change->to) + address_change(&change->from, &change->to);
	if (checksum_correct(context, icmp + 2, all + port_change(change->from_port, change->to_port)))
		return -1;
	if (store(context, outer + 8, &change->to, 16) || store(context, inner + 24, &change->to, 16))
		return -1;
	return store(context, inner + sizeof(struct ipv6hdr) + 2, &change->to_port, 2);
}

APART int rewrite_apart(context_t *context, const struct packet *packet, const struct change *change)
{
	return packet && change ? rewrite(context, packet, change) : -1;
}

INLINE int readdress(context_t *context, const struct packet *packet, const struct change *change)
{
	if (packet->is_error && !change->of_destination)
		return packet->v6 ? rewrite_error_source_v6(context, packet->l4, change) : rewrite_error_source_v4(context, change);
	return rewrite_apart(context, packet, change);
}

// Fragments of all clients come from one address now, where no two packets may have the same id.
INLINE long fragment_set_id(context_t *context, const struct packet *packet)
{
	__be16 id = packet->sent_id;
	if (packet->v6)
		return store(context, packet->l3 + sizeof(struct ipv6hdr) + 4, &packet->sent_id, sizeof(packet->sent_id));
	if (checksum_correct(context, packet->l3 + 10, port_change(packet->fragment_id, id)))
		return -1;
	return store(context, packet->l3 + 4, &id, sizeof(id));
}

// To the backend. TOO_LARGE as by `direct`. The stack is no help: it takes no packets from its own addresses.
APART int full_nat(context_t *context, struct packet *packet, const struct backend *backend, const struct choice *choice)
{
	if (!packet || !backend || !choice)
		return DROP;
	struct bpf_fib_lookup look;
	struct source *source = source_at(choice->source);
	if (!source)
		return stop(VERDICT_NO_PORT, DROP);
	long found = look_up(context, packet, &source->address, &backend->address, &look);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		packet->mtu = look.mtu_result;
		return TOO_LARGE;
	}
	struct change change = {.from = packet->destination, .to = backend->address, .of_destination = 1};
	change.from_port = packet->destination_port;
	change.to_port = backend->port;
	if (readdress(context, packet, &change))
		return stop(VERDICT_SHORT, DROP);
	change.from = packet->source;
	change.to = source->address;
	change.from_port = packet->source_port;
	change.to_port = choice->port;
	change.of_destination = 0;
	if (readdress(context, packet, &change) || (packet->part != PART_WHOLE && fragment_set_id(context, packet)))
		return stop(VERDICT_SHORT, DROP);
	return forward(context, packet, &look, found, 0);
}

// From the backend, to the client and from the service of `ends`. TOO_LARGE: nothing has become of it yet.
APART int to_client(context_t *context, struct packet *packet, const struct flow_key *ends)
{
	if (!packet || !ends)
		return DROP;
	struct bpf_fib_lookup look;
	long found = look_up(context, packet, &ends->service, &ends->client, &look);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		packet->mtu = look.mtu_result;
		return TOO_LARGE;
	}
	struct change change = {.from = packet->source, .to = ends->service, .of_destination = 0};
	change.from_port = packet->source_port;
	change.to_port = ends->service_port;
	if (readdress(context, packet, &change))
		return stop(VERDICT_SHORT, DROP);
	change.from = packet->destination;
	change.to = ends->client;
	change.from_port = packet->destination_port;
	change.to_port = ends->client_port;
	change.of_destination = 1;
	if (readdress(context, packet, &change))
		return stop(VERDICT_SHORT, DROP);
	count_verdict(VERDICT_ANSWER);
	return forward(context, packet, &look, found, 1);
}
