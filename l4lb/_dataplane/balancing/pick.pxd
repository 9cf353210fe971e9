# Pick: which backend of a pool serves a client: one of the first tier that has a backend with a place. Reads an
# immutable snapshot and the shared atomics that it points to; called by workers, many at once, without locks. What is
# picked is reserved, see load.pxd.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from l4lb._dataplane.balancing.load cimport backend_cost, backend_reserve, tier_bound
from l4lb._dataplane.base.enums cimport (
    HASH_KEY_DESTINATION, HASH_KEY_SESSION, HASH_KEY_SOURCE_IP_PORT, SELECT_FIRST, SELECT_HASH, SELECT_LEAST_SESSIONS,
    SELECT_PEAK_EWMA, SELECT_TWO_CHOICES, TIER_CURSORS, selection_t,
)
from l4lb._dataplane.base.hashing cimport hash_again, xxh64
from l4lb._dataplane.base.linux cimport likely, shared_add, shared_read, shared_swap_if
from l4lb._dataplane.base.parts cimport tried_t
from l4lb._dataplane.base.types cimport backend_t, pick_t, pool_live_t, pool_t, source_address_t, tier_t

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
    pool_t *pool, source_address_t *source, source_address_t *destination, uint8_t protocol
) noexcept nogil:
    """XXH64 of what the pool's hash_key names. `destination` and `protocol` (IPPROTO_TCP, IPPROTO_UDP) matter only to
    keys that include them.

    The bytes: addresses packed, ports in network order; source, then its port unless the key is the source's address
    alone; destination, its port; the protocol's number. `l4lb.routing.hashing` computes the same. With
    HASH_KEY_QUIC_CID this is for datagrams that name no connection: the source's address.
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
        key[length] = protocol
        length += 1
    return xxh64(key, length, pool.hash_seed)


cdef inline uint64_t connection_hash(pool_t *pool, const uint8_t *id, uint32_t length) noexcept nogil:
    """For HASH_KEY_QUIC_CID: XXH64 of the connection id that a client drew for its first packets."""
    return xxh64(id, length, pool.hash_seed)


cdef inline bint selection_hashes(selection_t selection) noexcept nogil:
    """Whether it uses the session's hash."""
    return selection == SELECT_HASH or selection == SELECT_TWO_CHOICES or selection == SELECT_PEAK_EWMA


cdef inline bint tried_has(tried_t *tried, uint32_t backend_id) noexcept nogil:
    cdef uint32_t i
    if tried == NULL:
        return False
    for i in range(tried.count):
        if tried.backend_ids[i] == backend_id:
            return True
    return False


cdef inline int64_t *tier_cursor(pool_live_t *live, uint32_t number) noexcept nogil:
    """The cursor of tier `number`, from 0. Tiers do not share one: that would leave slots out, since each session that
    the first tier cannot take moves it before the second does. Tiers beyond the last cursor share that."""
    return &live.cursors[number if number < TIER_CURSORS else TIER_CURSORS - 1]


cdef inline backend_t *slot_backend(pick_t *pick, uint64_t number) noexcept nogil:
    """The backend of a slot of the tier's table; every number names one."""
    cdef tier_t *tier = pick.tier
    return &pick.pool.backends[tier.usable[tier.slots[number % tier.slot_count]]]


cdef inline uint32_t scan_step(uint64_t hash, uint32_t count) noexcept nogil:
    """A stride that visits each of `count` once, so that the clients whom a full backend cannot take do not all go to
    the same neighbour."""
    cdef uint32_t step, a, b, rest
    if count < 3:
        return 1
    step = <uint32_t>(hash % (count - 1)) + 1
    while True:
        a, b = count, step
        while b:
            rest = a % b
            a, b = b, rest
        if a == 1:
            return step
        step -= 1


cdef inline backend_t *pick_scan(pick_t *pick, uint64_t start, uint32_t step) noexcept nogil:
    """Any backend of the tier with a place, starting at `start`: SELECT_FIRST, and the tables' last resort."""
    cdef tier_t *tier = pick.tier
    cdef uint64_t i
    cdef backend_t *backend
    for i in range(tier.usable_count):
        backend = &pick.pool.backends[tier.usable[(start + i * step) % tier.usable_count]]
        if not tried_has(pick.tried, backend.live.id) and backend_reserve(pick, backend):
            return backend
    return NULL


cdef inline backend_t *pick_cursor(pick_t *pick) noexcept nogil:
    cdef uint32_t _i
    cdef uint64_t cursor = 0
    cdef backend_t *backend
    for _i in range(pick.tier.usable_count):
        cursor = <uint64_t>shared_add(pick.tier.cursor, 1)
        backend = slot_backend(pick, cursor)
        if not tried_has(pick.tried, backend.live.id) and backend_reserve(pick, backend):
            return backend
    return pick_scan(pick, <uint32_t>cursor, 1)


cdef inline backend_t *pick_hash(pick_t *pick) noexcept nogil:
    cdef uint32_t attempt
    cdef uint64_t probe = pick.hash
    cdef backend_t *backend
    for attempt in range(HASH_PROBES):
        backend = slot_backend(pick, probe)
        if not tried_has(pick.tried, backend.live.id) and backend_reserve(pick, backend):
            return backend
        probe = hash_again(pick.hash, attempt + 1)
    return pick_scan(pick, <uint32_t>probe, scan_step(probe >> 32, pick.tier.usable_count))


cdef inline backend_t *least_of(pick_t *pick, uint32_t start, int64_t *active) noexcept nogil:
    """The tier's backend with the least (sessions + 1) / weight and its count as read; NULL when all are full."""
    cdef tier_t *tier = pick.tier
    cdef backend_t *best = NULL
    cdef backend_t *backend
    cdef int64_t count
    cdef uint32_t i
    for i in range(tier.usable_count):
        backend = &pick.pool.backends[tier.usable[(start + i) % tier.usable_count]]
        count = shared_read(&backend.live.sessions_active)
        if (backend.max_sessions and count >= backend.max_sessions) or tried_has(pick.tried, backend.live.id):
            continue
        if best == NULL or (count + 1) * best.weight < (active[0] + 1) * backend.weight:
            best = backend
            active[0] = count
    return best


cdef inline backend_t *pick_least_sessions(pick_t *pick) noexcept nogil:
    """Equal counts are served in turn. If another worker reserves in between, it chooses again, so the choice is
    exact."""
    cdef uint32_t start = <uint32_t>(<uint64_t>shared_add(pick.tier.cursor, 1) % pick.tier.usable_count)
    cdef int64_t active = 0
    cdef backend_t *backend
    while True:
        backend = least_of(pick, start, &active)
        if backend == NULL:
            return NULL
        if shared_swap_if(&backend.live.sessions_active, &active, active + 1):
            return backend


cdef inline backend_t *slot_candidate(pick_t *pick, uint64_t hash) noexcept nogil:
    """The backend of a slot, or NULL when it is full or was tried."""
    cdef backend_t *backend = slot_backend(pick, hash)
    if backend.max_sessions and shared_read(&backend.live.sessions_active) >= backend.max_sessions:
        return NULL
    return NULL if tried_has(pick.tried, backend.live.id) else backend


cdef inline backend_t *cheaper(pick_t *pick, backend_t *one, backend_t *other) noexcept nogil:
    """Either may be NULL."""
    if one == NULL or other == NULL:
        return other if one == NULL else one
    return one if backend_cost(pick, one) <= backend_cost(pick, other) else other


cdef inline backend_t *pick_two_choices(pick_t *pick) noexcept nogil:
    """The cheaper of two different slots' backends (Mitzenmacher 2001). The hash is drawn at random."""
    cdef uint32_t attempt
    cdef uint64_t draw = pick.hash
    cdef backend_t *first = NULL
    cdef backend_t *other
    cdef backend_t *best
    for attempt in range(2 * HASH_PROBES):
        other = slot_candidate(pick, draw)
        draw = hash_again(pick.hash, attempt + 1)
        if other == first or (first == NULL and pick.tier.usable_count > 1):
            first = other
            continue
        best = cheaper(pick, first, other)
        if backend_reserve(pick, best):
            return best
        first = NULL
    if first != NULL and backend_reserve(pick, first):
        return first
    return pick_scan(pick, <uint32_t>draw, 1)


cdef inline backend_t *pick_selected(pick_t *pick) noexcept nogil:
    cdef selection_t selection = pick.pool.selection
    if selection == SELECT_LEAST_SESSIONS:
        return pick_least_sessions(pick)
    if pick.tier.slot_count == 0 or selection == SELECT_FIRST:
        return pick_scan(pick, 0, 1)
    if selection == SELECT_HASH:
        return pick_hash(pick)
    if selection == SELECT_TWO_CHOICES or selection == SELECT_PEAK_EWMA:
        return pick_two_choices(pick)
    return pick_cursor(pick)


cdef inline backend_t *tier_pick(pick_t *pick, tier_t *tier) noexcept nogil:
    """A reserved backend of the tier that is not in `tried`, or NULL.

    A backend below the bound always exists; only when it was tried, or is at its max_sessions, the bound gives way: the
    bound spreads sessions within the tier, and sends none to the next one.
    """
    cdef backend_t *backend
    pick.tier = tier
    pick.bound = tier_bound(pick.pool, tier)
    backend = pick_selected(pick)
    if backend == NULL and pick.bound:
        pick.bound = 0
        backend = pick_selected(pick)
    return backend


cdef inline backend_t *pool_pick(pick_t *pick) noexcept nogil:
    """A reserved backend that is not in `tried`, from the first tier that has one with a place. NULL: none has."""
    cdef tier_t *tier = &pick.pool.first
    cdef backend_t *backend
    cdef uint32_t asked = 0
    if tier.usable_count == 0:
        return NULL
    while True:
        backend = tier_pick(pick, tier)
        if likely(backend != NULL or asked == pick.pool.further_count):
            return backend
        tier = &pick.pool.further[asked]
        asked += 1


cdef inline backend_t *tier_find(pick_t *pick, tier_t *tier, uint32_t backend_id) noexcept nogil:
    """The usable backend of that id, reserved. NULL: it is not in this tier, or has no place."""
    cdef backend_t *backend
    cdef uint32_t i
    for i in range(tier.usable_count):
        backend = &pick.pool.backends[tier.usable[i]]
        if backend.live.id == backend_id:
            return backend if backend_reserve(pick, backend) else NULL
    return NULL


cdef inline backend_t *pool_pick_named(pick_t *pick, uint32_t backend_id) noexcept nogil:
    """The backend of that id, reserved, for a session that a hook sends there: neither bounded_load nor priority
    counts. NULL: no new session may go there now, or it has no place."""
    cdef backend_t *backend = tier_find(pick, &pick.pool.first, backend_id)
    cdef uint32_t i
    for i in range(pick.pool.further_count):
        if backend != NULL:
            break
        backend = tier_find(pick, &pick.pool.further[i], backend_id)
    return backend


cdef inline backend_t *pool_resume(pick_t *pick, uint32_t backend_id) noexcept nogil:
    """The backend of that id, reserved, for a client that continues what it has begun there. NULL: it is gone, is down
    or in maintenance, or has no place.

    It may be in drain, of weight 0 or passed over for others: no other backend can continue what was begun there. For
    the same reason bounded_load does not apply.
    """
    cdef pool_t *pool = pick.pool
    cdef uint32_t i
    pick.bound = 0
    for i in range(pool.backend_count):
        if pool.backends[i].live.id == backend_id:
            if pool.backends[i].resumes and backend_reserve(pick, &pool.backends[i]):
                return &pool.backends[i]
            return NULL
    return NULL
