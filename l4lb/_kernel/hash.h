// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The hash that tables go by: XXH64 of the same bytes as _dataplane/balancing/pick.pxd:client_hash, so that both
// engines choose the same backend. Needs parse.h.

INLINE __u64 rotated(__u64 value, int bits)
{
	return value << bits | value >> (64 - bits);
}

INLINE __u64 xxh64_round(__u64 lane, __u64 word)
{
	return rotated(lane + word * XXH_PRIME_2, 31) * XXH_PRIME_1;
}

INLINE __u64 xxh64_merged(__u64 hash, __u64 lane)
{
	return (hash ^ xxh64_round(0, lane)) * XXH_PRIME_1 + XXH_PRIME_4;
}

// `length` is known where this is called: all that depends on it is decided by the compiler.
INLINE __u64 xxh64(const __u64 *words, const int length, __u64 seed)
{
	const __u8 *bytes = (const __u8 *)words;
	int done = 0;
	__u64 hash = seed + XXH_PRIME_5;
	if (length >= 32) {
		__u64 a = xxh64_round(seed + XXH_PRIME_1 + XXH_PRIME_2, words[0]);
		__u64 b = xxh64_round(seed + XXH_PRIME_2, words[1]);
		__u64 c = xxh64_round(seed, words[2]);
		__u64 d = xxh64_round(seed - XXH_PRIME_1, words[3]);
		hash = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18);
		hash = xxh64_merged(xxh64_merged(xxh64_merged(xxh64_merged(hash, a), b), c), d);
		done = 32;
	}
	hash += length;
#pragma unroll
	for (; done + 8 <= length; done += 8)
		hash = rotated(hash ^ xxh64_round(0, words[done / 8]), 27) * XXH_PRIME_1 + XXH_PRIME_4;
	if (done + 4 <= length) {
		hash = rotated(hash ^ (__u64) * (const __u32 *)(bytes + done) * XXH_PRIME_1, 23) * XXH_PRIME_2 + XXH_PRIME_3;
		done += 4;
	}
#pragma unroll
	for (; done < length; done++)
		hash = rotated(hash ^ bytes[done] * XXH_PRIME_5, 11) * XXH_PRIME_1;
	hash = (hash ^ hash >> 33) * XXH_PRIME_2;
	hash = (hash ^ hash >> 29) * XXH_PRIME_3;
	return hash ^ hash >> 32;
}

// The client's address under the pool's prefix.
INLINE void masked(struct address *address, const struct packet *packet, const struct service *service)
{
	for (int i = 0; i < 4; i++)
		address->words[i] = packet->source.words[i] & service->prefix.words[i];
}

INLINE __u64 hash_v4(const struct packet *packet, const struct service *service)
{
	__u64 words[2] = {};
	__u8 *key = (__u8 *)words;
	struct address source;
	masked(&source, packet, service);
	switch (service->hash_key) {
	case HASH_SOURCE_IP:
	case HASH_QUIC_CID:
		*(__u32 *)key = source.words[3];
		return xxh64(words, 4, service->seed);
	case HASH_SOURCE_IP_PORT:
		*(__u32 *)key = source.words[3];
		*(__be16 *)(key + 4) = packet->source_port;
		return xxh64(words, 6, service->seed);
	case HASH_DESTINATION:
		*(__u32 *)key = packet->destination.words[3];
		*(__be16 *)(key + 4) = packet->destination_port;
		return xxh64(words, 6, service->seed);
	case HASH_SESSION:
		*(__u32 *)key = source.words[3];
		*(__be16 *)(key + 4) = packet->source_port;
		*(__be16 *)(key + 6) = packet->destination.words[3] & 0xffff;
		*(__be16 *)(key + 8) = packet->destination.words[3] >> 16;
		*(__be16 *)(key + 10) = packet->destination_port;
		key[12] = packet->protocol;
		return xxh64(words, 13, service->seed);
	}
	return bpf_get_prandom_u32();
}

INLINE __u64 hash_v6(const struct packet *packet, const struct service *service)
{
	__u64 words[5] = {};
	__u8 *key = (__u8 *)words;
	struct address source;
	masked(&source, packet, service);
	switch (service->hash_key) {
	case HASH_SOURCE_IP:
	case HASH_QUIC_CID:
		__builtin_memcpy(key, &source, 16);
		return xxh64(words, 16, service->seed);
	case HASH_SOURCE_IP_PORT:
		__builtin_memcpy(key, &source, 16);
		*(__be16 *)(key + 16) = packet->source_port;
		return xxh64(words, 18, service->seed);
	case HASH_DESTINATION:
		__builtin_memcpy(key, &packet->destination, 16);
		*(__be16 *)(key + 16) = packet->destination_port;
		return xxh64(words, 18, service->seed);
	case HASH_SESSION:
		__builtin_memcpy(key, &source, 16);
		*(__be16 *)(key + 16) = packet->source_port;
		for (int i = 0; i < 4; i++) {
			*(__be16 *)(key + 18 + 4 * i) = packet->destination.words[i] & 0xffff;
			*(__be16 *)(key + 20 + 4 * i) = packet->destination.words[i] >> 16;
		}
		*(__be16 *)(key + 34) = packet->destination_port;
		key[36] = packet->protocol;
		return xxh64(words, 37, service->seed);
	}
	return bpf_get_prandom_u32();
}
