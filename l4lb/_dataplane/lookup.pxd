# Lookup: which backend of a pool serves this client. Reads an immutable snapshot and the shared atomics of what it
# points to; called by workers, many at once, without locks.
#
# A pick reserves: the backend's sessions_active is raised before the connect and lowered when the attempt or the
# session ends, so that a limit holds and least_sessions is exact however many workers choose at the same moment.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from l4lb._dataplane.hashing cimport hash_again, xxh64
from l4lb._dataplane.linux cimport shared_add, shared_read, shared_swap_if
from l4lb._dataplane.types cimport (
    SELECT_HASH, SELECT_LEAST_SESSIONS, backend_live_t, backend_t, pool_t, source_address_t, tried_t,
)

cdef enum:
    HASH_PROBES = 8               # tries by hash before the scan: enough for all but nearly full pools


cdef inline uint64_t source_hash(pool_t *pool, source_address_t *source) noexcept nogil:
    """XXH64 of the address under the pool's prefix. `l4lb.routing.hashing` computes the same."""
    cdef uint8_t masked[16]
    cdef uint32_t bits = pool.hash_prefix_v6 if source.length == 16 else pool.hash_prefix_v4
    cdef uint32_t i
    memcpy(masked, source.bytes, 16)
    for i in range(source.length):
        if bits < 8 * (i + 1):
            masked[i] &= <uint8_t>(0xFF00 >> (bits - 8 * i)) if bits > 8 * i else 0
    return xxh64(masked, source.length, pool.hash_seed)


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
    """Any usable backend with a place, beginning at `start`: the last resort of the table selections."""
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


cdef inline backend_t *pool_pick(pool_t *pool, tried_t *tried, uint64_t hash) noexcept nogil:
    """A reserved backend that is not in `tried`, or NULL. `hash` matters to SELECT_HASH alone."""
    if pool.usable_count == 0:
        return NULL
    if pool.selection == SELECT_LEAST_SESSIONS:
        return pick_least_sessions(pool, tried)
    if pool.slot_count == 0:
        return pick_scan(pool, tried, 0)
    if pool.selection == SELECT_HASH:
        return pick_hash(pool, tried, hash)
    return pick_cursor(pool, tried)
