# Load: how busy a backend is, whether it may take more, and the places that sessions hold there. Shared atomics, any
# worker, no locks.
#
# A pick reserves: the backend's sessions_active is raised before the connect and lowered when the attempt or the
# session ends, so that a limit holds and least_sessions is exact however many workers choose at the same moment.

from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t

from l4lb._dataplane.base.enums cimport SELECT_PEAK_EWMA
from l4lb._dataplane.base.ewma cimport ewma_read_us
from l4lb._dataplane.base.linux cimport shared_add, shared_read, shared_swap_if
from l4lb._dataplane.base.types cimport backend_live_t, backend_t, pick_t, pool_t, tier_t

cdef enum:
    LATENCY_FLOOR_US = 64         # smaller differences are the event loop's own


cdef inline int64_t tier_sessions(pool_t *pool, tier_t *tier) noexcept nogil:
    """Includes the session that is about to choose. For a pool's only tier: all that do not wait in a queue. For one of
    several: the sum of its backends' sessions, since those of other tiers say nothing about its load."""
    cdef int64_t sessions = 1
    cdef uint32_t i
    if pool.further_count == 0:
        return shared_read(&pool.live.sessions_active) - shared_read(&pool.live.waiting)
    for i in range(tier.usable_count):
        sessions += shared_read(&pool.backends[tier.usable[i]].live.sessions_active)
    return sessions


cdef inline double tier_bound(pool_t *pool, tier_t *tier) noexcept nogil:
    """Sessions that bounded_load allows per unit of weight; 0: no bound.

    Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016. The average is the tier's.
    """
    cdef int64_t sessions
    if pool.bounded_load == 0:
        return 0
    sessions = tier_sessions(pool, tier)
    return pool.bounded_load * (sessions if sessions > 1 else 1) / tier.usable_weight


cdef inline int64_t backend_limit(pick_t *pick, backend_t *backend) noexcept nogil:
    """How many sessions it may have; 0: any number."""
    cdef int64_t bound
    if pick.bound == 0:
        return backend.max_sessions
    bound = <int64_t>ceil(pick.bound * backend.weight - 1e-9)      # 1.1 * 10 / 11 is 1, not a little more
    if bound < 1:
        bound = 1
    return bound if backend.max_sessions == 0 or bound < backend.max_sessions else backend.max_sessions


cdef inline bint backend_reserve(pick_t *pick, backend_t *backend) noexcept nogil:
    """Take a place if there is one. Never exceeds the limit, not even for a moment."""
    cdef int64_t limit = backend_limit(pick, backend)
    cdef int64_t active
    if limit == 0:
        shared_add(&backend.live.sessions_active, 1)
        return True
    active = shared_read(&backend.live.sessions_active)
    while active < limit:
        if shared_swap_if(&backend.live.sessions_active, &active, active + 1):
            return True
    return False


cdef inline void backend_release(backend_live_t *live) noexcept nogil:
    shared_add(&live.sessions_active, -1)


cdef inline double backend_latency_us(backend_live_t *live, pick_t *pick) noexcept nogil:
    """Recent time to connect and time to the first byte of the answer."""
    return (
        LATENCY_FLOOR_US
        + ewma_read_us(&live.connect_latency, pick.now_ms)
        + ewma_read_us(&live.answer_latency, pick.now_ms)
    )


cdef inline double backend_cost(pick_t *pick, backend_t *backend) noexcept nogil:
    """The cost of one more session there: the smaller, the better."""
    cdef double cost = <double>(shared_read(&backend.live.sessions_active) + 1) / backend.weight
    if pick.pool.selection == SELECT_PEAK_EWMA:
        cost *= backend_latency_us(backend.live, pick)
    return cost
