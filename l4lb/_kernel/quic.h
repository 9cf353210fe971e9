// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// QUIC with hash_key quic_cid: which backend has a connection whose client now comes from another address. By what RFC
// 8999 makes visible in all versions alone. Needs flows.h, and what that needs.
//
// Clients address a server by connection ids that it has given them. Answers need not pass by here, so ids are learned
// from clients: what a flow that is known already calls its server in a long header, during the handshake. Later packets
// carry the id in a short header, without its length: all lengths that were seen are tried, the longest first.
//
// Whoever sends from forged addresses can have ids learned that nobody has given. He does not get at connections of
// others with that: an id that is known stays with its backend, and one to come has to be guessed, of 2^32 at the least.
// He can push out ids that were not used for long, whose clients then lose their connections should they move, as they
// would without all this; and make packets of unknown flows cost twenty look-ups.

#define QUIC_ID_LEAST 4            // shorter ones are not learned: he could have all of them
#define QUIC_ID_MOST 20            // of versions 1 and 2
#define QUIC_LONG_FORM 0x80

MAP(quic_owners, BPF_MAP_TYPE_LRU_HASH, struct quic_id, struct quic_owner, QUIC_IDS_MAX, 0);
MAP(quic_lengths, BPF_MAP_TYPE_ARRAY, __u32, __u32, SERVICES_MAX, 0);  // a bit each, of a service's number

struct quic {
	struct quic_id id;             // of a short header: what may begin with it, `length` bytes
	__u8 is_long;
	__u8 has_version;              // its ids are not the client's own, as in Version Negotiation
};

INLINE int quic_read_long(context_t *context, __u32 at, __u32 rest, struct quic *quic)
{
	__u8 head[6] = {};                                                 // after the first byte: version, the id's length
	__u8 source;                                                       // the length of the other id, which has to be there too
	if (rest < 7 || load(context, at + 1, head, 5))
		return -1;
	__u32 length = head[4];
	if (length > QUIC_ID_MOST || rest < 7 + length || load(context, at + 6 + length, &source, 1))
		return -1;
	if (rest < 7 + length + source)
		return -1;
	quic->is_long = 1;
	quic->has_version = (head[0] | head[1] | head[2] | head[3]) != 0;
	quic->id.length = length;
	return length ? load(context, at + 6, quic->id.bytes, length) : 0;
}

INLINE int quic_read_short(context_t *context, __u32 at, __u32 rest, struct quic *quic)
{
	__u32 length = rest - 1;
	if (rest < 2)
		return -1;
	if (length > QUIC_ID_MOST)
		length = QUIC_ID_MOST;
	quic->id.length = length;
	return load(context, at + 1, quic->id.bytes, length);
}

// Of the first packet of a datagram. 0, or -1 when there is none.
INLINE int quic_read(context_t *context, const struct packet *packet, const struct service *service,
					 struct quic *quic)
{
	__u8 udp[8], first;
	__u32 at = packet->l4 + sizeof(udp);
	__builtin_memset(quic, 0, sizeof(*quic));
	quic->id.service = service->quic_service;
	if (packet->is_error || load(context, packet->l4, udp, sizeof(udp)) || load(context, at, &first, 1))
		return -1;
	__u32 rest = (udp[4] << 8 | udp[5]) - sizeof(udp);
	if (rest > 0xffff || rest > packet->bytes - at)
		return -1;
	return first & QUIC_LONG_FORM ? quic_read_long(context, at, rest, quic) : quic_read_short(context, at, rest, quic);
}

// XXH64 of the id in a long header: balancing/pick.pxd:connection_hash.
INLINE __u64 quic_hash(const struct quic_id *id, __u64 seed)
{
	__u64 words[4] = {}, hash = seed + XXH_PRIME_5 + id->length;
	const __u8 *bytes = (const __u8 *)words;
	__u32 done = id->length & 24;
	__builtin_memcpy(words, id->bytes, QUIC_ID_MOST);
	if (done >= 8)
		hash = rotated(hash ^ xxh64_round(0, words[0]), 27) * XXH_PRIME_1 + XXH_PRIME_4;
	if (done >= 16)
		hash = rotated(hash ^ xxh64_round(0, words[1]), 27) * XXH_PRIME_1 + XXH_PRIME_4;
	if (id->length & 4) {
		__u64 four = *(const __u32 *)(bytes + done);
		hash = rotated(hash ^ four * XXH_PRIME_1, 23) * XXH_PRIME_2 + XXH_PRIME_3;
		done += 4;
	}
	for (int i = 0; i < 3; i++)
		if (i < (int)(id->length & 3))
			hash = rotated(hash ^ bytes[(done + i) & 31] * XXH_PRIME_5, 11) * XXH_PRIME_1;
	hash = (hash ^ hash >> 33) * XXH_PRIME_2;
	hash = (hash ^ hash >> 29) * XXH_PRIME_3;
	return hash ^ hash >> 32;
}

// Who has that id, if that backend still is there; 0, or -1.
INLINE int quic_owner_find(const struct quic_id *id, struct choice *choice)
{
	struct quic_owner *owner = bpf_map_lookup_elem(&quic_owners, id);
	if (!owner)
		return -1;
	struct backend *backend = backend_at(owner->backend);
	if (!backend || backend->incarnation != owner->incarnation || backend->flags & BACKEND_LEFT)
		return -1;
	choice->index = owner->backend;
	choice->incarnation = owner->incarnation;
	return 0;
}

// From a packet of a flow that is known, and goes to `choice`.
APART int quic_learn(context_t *context, const struct packet *packet, const struct service *service,
					 const struct choice *choice)
{
	if (!packet || !service || !choice)
		return -1;
	struct quic quic;
	struct choice other;
	__u32 number = service->number, *lengths = bpf_map_lookup_elem(&quic_lengths, &number);
	struct quic_owner owner = {.backend = choice->index, .incarnation = choice->incarnation};
	if (quic_read(context, packet, service, &quic))
		return -1;
	if (!lengths || !quic.has_version || quic.id.length < QUIC_ID_LEAST || !quic_owner_find(&quic.id, &other))
		return 0;
	__u32 bit = 1U << (quic.id.length & 31);
	if (!(*lengths & bit))
		__sync_fetch_and_or(lengths, bit);
	return bpf_map_update_elem(&quic_owners, &quic.id, &owner, BPF_ANY);
}

// Where a packet of an unknown flow has its connection: 0 and `choice`. Else -1; what to choose a
// backend by is then in `packet`, if the id of a client that begins is.
APART int quic_find(context_t *context, struct packet *packet, const struct service *service, struct choice *choice)
{
	if (!packet || !service || !choice)
		return -1;
	struct quic quic;
	__u32 number = service->number, *lengths = bpf_map_lookup_elem(&quic_lengths, &number);
	if (quic_read(context, packet, service, &quic))
		return -1;
	__u32 most = quic.id.length;
	if (quic.is_long && most) {
		packet->quic_hash = quic_hash(&quic.id, service->seed);
		packet->has_quic_hash = 1;
	}
	if (!lengths || !*lengths)
		return -1;
	if (quic.is_long)
		return quic_owner_find(&quic.id, choice);
	for (__u32 length = QUIC_ID_MOST; length >= QUIC_ID_LEAST; length--) {
		if (length < QUIC_ID_MOST)
			quic.id.bytes[length] = 0;
		quic.id.length = length;
		if (length <= most && *lengths & 1U << length && !quic_owner_find(&quic.id, choice))
			return 0;
	}
	return -1;
}
