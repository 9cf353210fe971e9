# Hashing: XXH64 (Yann Collet's xxHash specification, section "XXH64 algorithm"), which chooses a client's slot and
# spreads backends over tables. The xxhash package on the control side is its twin. Pure: no state, any thread.

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

cdef enum:
    XXH_STRIPE_BYTES = 32

cdef extern from * nogil:
    """
    #define XXH_PRIME_1 0x9E3779B185EBCA87ULL
    #define XXH_PRIME_2 0xC2B2AE3D27D4EB4FULL
    #define XXH_PRIME_3 0x165667B19E3779F9ULL
    #define XXH_PRIME_4 0x85EBCA77C2B2AE63ULL
    #define XXH_PRIME_5 0x27D4EB2F165667C5ULL
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "l4lb's hashing reads little-endian words in place"
    #endif
    """
    const uint64_t XXH_PRIME_1, XXH_PRIME_2, XXH_PRIME_3, XXH_PRIME_4, XXH_PRIME_5


cdef inline uint64_t rotate_left(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline uint64_t read_u64(const uint8_t *data) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, data, 8)
    return value


cdef inline uint32_t read_u32(const uint8_t *data) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, data, 4)
    return value


cdef inline uint64_t xxh64_round(uint64_t lane, uint64_t word) noexcept nogil:
    return rotate_left(lane + word * XXH_PRIME_2, 31) * XXH_PRIME_1


cdef inline uint64_t xxh64_merge(uint64_t hash, uint64_t lane) noexcept nogil:
    return (hash ^ xxh64_round(0, lane)) * XXH_PRIME_1 + XXH_PRIME_4


cdef inline uint64_t xxh64_stripes(const uint8_t *data, uint64_t length, uint64_t seed) noexcept nogil:
    """The four lanes over all whole stripes, merged; `length` is at least one stripe."""
    cdef uint64_t lanes[4]
    cdef uint64_t hash
    cdef int i
    lanes[0] = seed + XXH_PRIME_1 + XXH_PRIME_2
    lanes[1] = seed + XXH_PRIME_2
    lanes[2] = seed
    lanes[3] = seed - XXH_PRIME_1
    while length >= XXH_STRIPE_BYTES:
        for i in range(4):
            lanes[i] = xxh64_round(lanes[i], read_u64(data + 8 * i))
        data += XXH_STRIPE_BYTES
        length -= XXH_STRIPE_BYTES
    hash = rotate_left(lanes[0], 1) + rotate_left(lanes[1], 7) + rotate_left(lanes[2], 12) + rotate_left(lanes[3], 18)
    for i in range(4):
        hash = xxh64_merge(hash, lanes[i])
    return hash


cdef inline uint64_t xxh64(const uint8_t *data, uint64_t length, uint64_t seed) noexcept nogil:
    cdef uint64_t hash
    cdef uint64_t left = length
    if length >= XXH_STRIPE_BYTES:
        hash = xxh64_stripes(data, length, seed)
        data += length - length % XXH_STRIPE_BYTES
        left = length % XXH_STRIPE_BYTES
    else:
        hash = seed + XXH_PRIME_5
    hash += length
    while left >= 8:
        hash = rotate_left(hash ^ xxh64_round(0, read_u64(data)), 27) * XXH_PRIME_1 + XXH_PRIME_4
        data += 8
        left -= 8
    if left >= 4:
        hash = rotate_left(hash ^ (<uint64_t>read_u32(data) * XXH_PRIME_1), 23) * XXH_PRIME_2 + XXH_PRIME_3
        data += 4
        left -= 4
    while left:
        hash = rotate_left(hash ^ (<uint64_t>data[0] * XXH_PRIME_5), 11) * XXH_PRIME_1
        data += 1
        left -= 1
    hash = (hash ^ (hash >> 33)) * XXH_PRIME_2
    hash = (hash ^ (hash >> 29)) * XXH_PRIME_3
    return hash ^ (hash >> 32)


cdef inline uint64_t random_draw(uint64_t seed, uint64_t number) noexcept nogil:
    """Draw number `number`, from 1, of SplitMix64 (Steele, Lea, Flood 2014): fast and even; not for secrets."""
    cdef uint64_t mixed = seed + number * <uint64_t>0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    return mixed ^ (mixed >> 31)


cdef inline uint64_t random_next(uint64_t *state) noexcept nogil:
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    return random_draw(state[0], 0)


cdef inline uint64_t hash_again(uint64_t hash, uint32_t attempt) noexcept nogil:
    """Another slot for a client whose slot cannot serve it: independent of the neighbouring slots, so no cascade."""
    cdef uint64_t words[2]
    words[0] = hash
    words[1] = attempt
    return xxh64(<const uint8_t *>words, sizeof(words), 0)
