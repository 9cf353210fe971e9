# Places: how many sessions may be under way at once, of the process, of each protocol in it, of a listener; a pool's
# are counted. Shared atomics, any worker, no locks. Here alone they are taken, given back and moved.
#
# TCP and UDP share the process's places. Where both have listeners a quarter is TCP's alone and a quarter UDP's alone,
# so that neither starves the other: the sources of UDP cost nobody anything. room.pxd ends idle sessions of UDP for
# new clients of either.

from libc.stdint cimport int64_t, uint64_t

from l4lb._dataplane.linux cimport published_load_u64, shared_add, shared_read, shared_swap_if
from l4lb._dataplane.types cimport listener_live_t, listener_t, pool_live_t
from l4lb._dataplane.worker_types cimport plane_t, worker_t

cdef enum:
    PLACES_KEPT_SHARE = 4             # one of so many parts is for the other protocol alone

cdef enum places_t:
    PLACES_TAKEN = 0
    PLACES_NONE_OF_PROCESS
    PLACES_NONE_OF_LISTENER


cdef inline bint place_take(int64_t *active, int64_t limit) noexcept nogil:
    """Count one more, unless `limit` (0: none) is reached. Never exceeds it, not even for a moment."""
    cdef int64_t count
    if limit == 0:
        shared_add(active, 1)
        return True
    count = shared_read(active)
    while count < limit:
        if shared_swap_if(active, &count, count + 1):
            return True
    return False


# ---- of the process ----

cdef inline int64_t process_limit(plane_t *plane) noexcept nogil:
    """Control changes it while sessions run."""
    return <int64_t>published_load_u64(<uint64_t *>&plane.max_sessions)


cdef inline int64_t protocol_limit(worker_t *w) noexcept nogil:
    """How many sessions TCP may have, and how many UDP; 0: any number."""
    cdef int64_t limit = process_limit(w.plane)
    return limit - limit // PLACES_KEPT_SHARE if w.snapshot.mixed else limit


cdef inline bint process_place_take(worker_t *w, bint datagrams) noexcept nogil:
    if not place_take(&w.plane.sessions_of[datagrams], protocol_limit(w)):
        return False
    if not place_take(&w.plane.sessions_active, process_limit(w.plane)):
        shared_add(&w.plane.sessions_of[datagrams], -1)
        return False
    return True


cdef inline void process_place_give(plane_t *plane, bint datagrams) noexcept nogil:
    shared_add(&plane.sessions_active, -1)
    shared_add(&plane.sessions_of[datagrams], -1)


# ---- of the listener, and with it the pool's ----

cdef inline bint listener_place_take(listener_t *listener) noexcept nogil:
    if not place_take(&listener.live.sessions_active, listener.max_sessions):
        return False
    shared_add(&listener.pool.live.sessions_active, 1)
    return True


cdef inline void listener_place_give(listener_live_t *listener, pool_live_t *pool) noexcept nogil:
    shared_add(&pool.sessions_active, -1)
    shared_add(&listener.sessions_active, -1)


# ---- all that a session needs ----

cdef inline places_t places_take(worker_t *w, listener_t *listener, bint datagrams) noexcept nogil:
    """All, or none."""
    if not process_place_take(w, datagrams):
        return PLACES_NONE_OF_PROCESS
    if not listener_place_take(listener):
        process_place_give(w.plane, datagrams)
        return PLACES_NONE_OF_LISTENER
    return PLACES_TAKEN


cdef inline void places_give(
    plane_t *plane, listener_live_t *listener, pool_live_t *pool, bint datagrams
) noexcept nogil:
    listener_place_give(listener, pool)
    process_place_give(plane, datagrams)


cdef inline void places_bring(
    plane_t *plane, listener_live_t *listener, pool_live_t *pool, bint datagrams
) noexcept nogil:
    """For a session that comes from another process: it had places there, and is not asked for any."""
    shared_add(&plane.sessions_of[datagrams], 1)
    shared_add(&plane.sessions_active, 1)
    shared_add(&listener.sessions_active, 1)
    shared_add(&pool.sessions_active, 1)
