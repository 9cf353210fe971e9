# Lookup: which backend of a pool serves this client. Reads an immutable snapshot and the shared atomics of what it
# points to; called by workers, many at once, without locks.
#
# A pick reserves: the backend's sessions_active is raised before the connect and lowered when the attempt or the
# session ends, so that a limit holds and least_sessions is exact however many workers choose at the same moment.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from l4lb._dataplane.hashing cimport hash_again, xxh64
from l4lb._dataplane.linux cimport IPPROTO_TCP, shared_add, shared_read, shared_swap_if
from l4lb._dataplane.types cimport (
    HASH_KEY_DESTINATION, HASH_KEY_SESSION, HASH_KEY_SOURCE_IP_PORT, SELECT_FIRST, SELECT_HASH,
    SELECT_LEAST_SESSIONS, SELECT_TWO_CHOICES, backend_live_t, backend_t, pool_t, source_address_t, tried_t,
)

cdef enum:
    HASH_PROBES = 8               # tries by hash before the scan: enough for all but nearly full pools


cdef inline uint32_t key_add_source(pool_t *pool, uint8_t *key, source_address_t *source) noexcept nogil:
    """The client's address under the pool's prefix. Returns its length."""
    cdef uint32_t bits = pool.hash_prefix_v6 if source.length == 16 else pool.hash_prefix_v4
    cdef uint32_t i
    memcpy(key, source.bytes, 16)
    for i in range(source.length):
        if bits < 8 * (i + 1):
            key[i] &= <uint8_t>(0xFF00 >> (bits - 8 * i)) if bits > 8 * i else 0
    return source.length


cdef inline uint32_t key_add_destination(uint8_t *key, source_address_t *destination) noexcept nogil:
    memcpy(key, destination.bytes, 16)
    memcpy(key + destination.length, &destination.port, 2)
    return destination.length + 2


cdef inline uint64_t client_hash(
    pool_t *pool, source_address_t *source, source_address_t *destination
) noexcept nogil:
    """XXH64 of what the pool's hash_key names. `destination` matters to the keys that it is part of.

    The bytes: addresses packed, ports in network order; source, then its port unless the key is the source's address
    alone; destination, its port; the protocol's number. `l4lb.routing.hashing` computes the same.
    """
    cdef uint8_t key[40]
    cdef uint32_t length = 0
    if pool.hash_key != HASH_KEY_DESTINATION:
        length = key_add_source(pool, key, source)
    if pool.hash_key == HASH_KEY_SOURCE_IP_PORT or pool.hash_key == HASH_KEY_SESSION:
        memcpy(key + length, &source.port, 2)
        length += 2
    if pool.hash_key == HASH_KEY_DESTINATION or pool.hash_key == HASH_KEY_SESSION:
        length += key_add_destination(key + length, destination)
    if pool.hash_key == HASH_KEY_SESSION:
        key[length] = IPPROTO_TCP
        length += 1
    return xxh64(key, length, pool.hash_seed)


cdef inline bint tried_has(tried_t *tried, uint32_t backend_id) noexcept nogil:
    cdef uint32_t i
    if tried == NULL:
        return False
    for i in range(tried.count):
        if tried.backend_ids[i] == backend_id:
            return True
    return False


cdef inline bint backend_reserve(backend_t *backend) noexcept nogil:
    """Take a place if there is one. Never exceeds max_sessions, not even for a moment."""
    cdef int64_t active
    if backend.max_sessions == 0:
        shared_add(&backend.live.sessions_active, 1)
        return True
    active = shared_read(&backend.live.sessions_active)
    while active < backend.max_sessions:
        if shared_swap_if(&backend.live.sessions_active, &active, active + 1):
            return True
    return False


cdef inline void backend_release(backend_live_t *live) noexcept nogil:
    shared_add(&live.sessions_active, -1)


cdef inline backend_t *pick_scan(pool_t *pool, tried_t *tried, uint32_t start) noexcept nogil:
    """Any usable backend with a place, beginning at `start`: SELECT_FIRST, and the tables' last resort."""
    cdef uint32_t i
    cdef backend_t *backend
    for i in range(pool.usable_count):
        backend = &pool.backends[pool.usable[(start + i) % pool.usable_count]]
        if not tried_has(tried, backend.live.id) and backend_reserve(backend):
            return backend
    return NULL


cdef inline backend_t *pick_cursor(pool_t *pool, tried_t *tried) noexcept nogil:
    cdef uint32_t _i
    cdef uint64_t cursor = 0
    cdef backend_t *backend
    for _i in range(pool.usable_count):
        cursor = <uint64_t>shared_add(&pool.live.cursor, 1)
        backend = &pool.backends[pool.slots[cursor % pool.slot_count]]
        if not tried_has(tried, backend.live.id) and backend_reserve(backend):
            return backend
    return pick_scan(pool, tried, <uint32_t>(cursor % pool.usable_count))


cdef inline backend_t *pick_hash(pool_t *pool, tried_t *tried, uint64_t hash) noexcept nogil:
    cdef uint32_t attempt
    cdef uint64_t probe = hash
    cdef backend_t *backend
    for attempt in range(HASH_PROBES):
        backend = &pool.backends[pool.slots[probe % pool.slot_count]]
        if not tried_has(tried, backend.live.id) and backend_reserve(backend):
            return backend
        probe = hash_again(hash, attempt + 1)
    return pick_scan(pool, tried, <uint32_t>(probe % pool.usable_count))


cdef inline backend_t *least_of(pool_t *pool, tried_t *tried, uint32_t start, int64_t *active) noexcept nogil:
    """The usable backend with the least (sessions + 1) / weight and its count as read; NULL when all are full."""
    cdef backend_t *best = NULL
    cdef backend_t *backend
    cdef int64_t count
    cdef uint32_t i
    for i in range(pool.usable_count):
        backend = &pool.backends[pool.usable[(start + i) % pool.usable_count]]
        count = shared_read(&backend.live.sessions_active)
        if (backend.max_sessions and count >= backend.max_sessions) or tried_has(tried, backend.live.id):
            continue
        if best == NULL or (count + 1) * best.weight < (active[0] + 1) * backend.weight:
            best = backend
            active[0] = count
    return best


cdef inline backend_t *pick_least_sessions(pool_t *pool, tried_t *tried) noexcept nogil:
    """Equal counts are served in turn. Chosen again when another worker reserved in between, so the choice is exact."""
    cdef uint32_t start = <uint32_t>(<uint64_t>shared_add(&pool.live.cursor, 1) % pool.usable_count)
    cdef int64_t active = 0
    cdef backend_t *backend
    while True:
        backend = least_of(pool, tried, start, &active)
        if backend == NULL:
            return NULL
        if shared_swap_if(&backend.live.sessions_active, &active, active + 1):
            return backend


cdef inline backend_t *slot_candidate(pool_t *pool, tried_t *tried, uint64_t hash) noexcept nogil:
    """The backend of a slot, or NULL when it is full or was tried."""
    cdef backend_t *backend = &pool.backends[pool.slots[hash % pool.slot_count]]
    if backend.max_sessions and shared_read(&backend.live.sessions_active) >= backend.max_sessions:
        return NULL
    return NULL if tried_has(tried, backend.live.id) else backend


cdef inline backend_t *less_loaded(backend_t *one, backend_t *other) noexcept nogil:
    """Which has the smaller (sessions + 1) / weight; either may be NULL."""
    cdef int64_t sessions, other_sessions
    if one == NULL or other == NULL:
        return other if one == NULL else one
    sessions = shared_read(&one.live.sessions_active)
    other_sessions = shared_read(&other.live.sessions_active)
    return one if (sessions + 1) * other.weight <= (other_sessions + 1) * one.weight else other


cdef inline backend_t *pick_two_choices(pool_t *pool, tried_t *tried, uint64_t hash) noexcept nogil:
    """The less loaded of two different slots' backends (Mitzenmacher 2001). `hash` is drawn at random."""
    cdef uint32_t attempt
    cdef uint64_t draw = hash
    cdef backend_t *first = NULL
    cdef backend_t *other
    cdef backend_t *best
    for attempt in range(2 * HASH_PROBES):
        other = slot_candidate(pool, tried, draw)
        draw = hash_again(hash, attempt + 1)
        if other == first or (first == NULL and pool.usable_count > 1):
            first = other
            continue
        best = less_loaded(first, other)
        if backend_reserve(best):
            return best
        first = NULL
    if first != NULL and backend_reserve(first):
        return first
    return pick_scan(pool, tried, <uint32_t>(draw % pool.usable_count))


cdef inline backend_t *pool_pick(pool_t *pool, tried_t *tried, uint64_t hash) noexcept nogil:
    """A reserved backend that is not in `tried`, or NULL. `hash`: see `client_hash`."""
    if pool.usable_count == 0:
        return NULL
    if pool.selection == SELECT_LEAST_SESSIONS:
        return pick_least_sessions(pool, tried)
    if pool.slot_count == 0 or pool.selection == SELECT_FIRST:
        return pick_scan(pool, tried, 0)
    if pool.selection == SELECT_HASH:
        return pick_hash(pool, tried, hash)
    if pool.selection == SELECT_TWO_CHOICES:
        return pick_two_choices(pool, tried, hash)
    return pick_cursor(pool, tried)
