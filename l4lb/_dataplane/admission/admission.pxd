# Admission: what a client counts for, from the moment it is admitted to the end of its session: one of its source and
# under its session_rate (`per_source`, sources.pxd); one under its listener's session_rate; one session of the process
# and of its protocol; one of its listener, its pool and its worker. max_sessions bounds the process and the listener;
# pools and workers are only counted. Shared atomics, any worker; only sources have locks.
#
# The source comes first: who is over his own limits takes nothing of what all share. Behind a PROXY header it is the
# client that the header names, so such a client is admitted to the rest before.
#
# A client's `held`, which its session takes over, records what it counts for now. Only this file changes it and the
# counts. A client may be admitted by one worker and get its session on another; a session may come
# from another process: both keep what they hold.
#
# TCP and UDP share the process's sessions. Where both have listeners a quarter is reserved for TCP and a quarter for
# UDP, so that neither starves the other: a forged source address of a datagram costs its sender nothing.
# udp/make_room.pxd ends idle UDP sessions to admit new clients of either protocol.

from libc.stdint cimport int64_t, uint64_t, uint8_t

from l4lb._dataplane.admission.limits cimport session_rate_take
from l4lb._dataplane.admission.sources cimport (
    SOURCE_NO_MEMORY, SOURCE_OVER_LIMIT, source_key_fill, source_taken_t, sources_give, sources_take,
    sources_take_anyway,
)
from l4lb._dataplane.base.linux cimport counter_add, published_load_u64, shared_add, shared_read, shared_swap_if
from l4lb._dataplane.base.source_types cimport (
    SOURCE_LIMIT_COUNT, SOURCE_LIMIT_SESSIONS, source_key_t, source_limit_t, source_limits_t,
)
from l4lb._dataplane.base.types cimport held_t, listener_live_t, listener_t, pool_live_t, source_address_t
from l4lb._dataplane.base.worker_types cimport plane_t, worker_t

cdef enum:
    KEPT_SHARE = 4                # one of so many parts is reserved for the other protocol

cdef enum admitted_t:
    ADMITTED = 0
    ADMIT_RATE_LIMITED
    ADMIT_PROCESS_FULL
    ADMIT_LISTENER_FULL
    ADMIT_SOURCE_LIMITED          # its source is at its session_rate
    ADMIT_SOURCE_FULL             # ... or has as many sessions as it may
    ADMIT_NO_MEMORY

cdef enum held_place_t:
    HELD_NOTHING = 0
    HELD_PROCESS = 1
    HELD_DATAGRAMS = 2            # ... as a UDP session
    HELD_LISTENER = 4
    HELD_POOL = 8
    HELD_WORKER = 16


cdef inline bint count_below(int64_t *active, int64_t limit) noexcept nogil:
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


cdef inline int64_t process_limit(plane_t *plane) noexcept nogil:
    """Control changes it while sessions run."""
    return <int64_t>published_load_u64(<uint64_t *>&plane.max_sessions)


cdef inline int64_t protocol_limit(worker_t *w) noexcept nogil:
    """How many sessions TCP may have, and how many UDP; 0: any number."""
    cdef int64_t limit = process_limit(w.plane)
    return limit - limit // KEPT_SHARE if w.snapshot.mixed else limit


cdef inline void hold_nothing(held_t *held) noexcept nogil:
    held.source = NULL
    held.places = HELD_NOTHING


# ---- admitting ----

cdef inline admitted_t admit_source(
    worker_t *w, listener_live_t *listener, const source_address_t *client, held_t *held
) noexcept nogil:
    """Count one more session of the client's source, unless that is at a limit. A unix client has no address."""
    cdef source_limits_t *limits = &listener.limits.source
    cdef source_limit_t over
    cdef source_key_t key
    cdef source_taken_t taken
    if not published_load_u64(&limits.counts) or not client.length:
        return ADMITTED
    source_key_fill(&key, limits, listener.id, client)
    taken = sources_take(&w.plane.sources, limits, &key, w.now_ns, &held.source, &over)
    if over != SOURCE_LIMIT_COUNT:
        counter_add(&listener.counters[w.index].source_limited[<int>over], 1)
    if taken == SOURCE_NO_MEMORY:
        return ADMIT_NO_MEMORY
    if taken == SOURCE_OVER_LIMIT:
        return ADMIT_SOURCE_FULL if over == SOURCE_LIMIT_SESSIONS else ADMIT_SOURCE_LIMITED
    return ADMITTED


cdef inline bint admitted_too_fast(admitted_t admitted) noexcept nogil:
    """Whether a rate, not a number of sessions, kept a client out."""
    return admitted == ADMIT_RATE_LIMITED or admitted == ADMIT_SOURCE_LIMITED


cdef inline bint refusal_closes(listener_live_t *listener, admitted_t admitted) noexcept nogil:
    """TCP: whether a client that was kept out sees a FIN; otherwise a reset."""
    return (admitted == ADMIT_SOURCE_FULL or admitted == ADMIT_SOURCE_LIMITED) and (
        published_load_u64(&listener.limits.source.closes) != 0
    )


cdef inline bint admit_to_process(worker_t *w, bint datagrams, held_t *held) noexcept nogil:
    if not count_below(&w.plane.sessions_of[datagrams], protocol_limit(w)):
        return False
    if not count_below(&w.plane.sessions_active, process_limit(w.plane)):
        shared_add(&w.plane.sessions_of[datagrams], -1)
        return False
    held.places |= HELD_PROCESS | (HELD_DATAGRAMS if datagrams else 0)
    return True


cdef inline void release_process(worker_t *w, held_t *held) noexcept nogil:
    if held.places & HELD_PROCESS:
        shared_add(&w.plane.sessions_active, -1)
        shared_add(&w.plane.sessions_of[(held.places & HELD_DATAGRAMS) != 0], -1)
    held.places &= <uint8_t>~(HELD_PROCESS | HELD_DATAGRAMS)


cdef inline bint admit_to_listener(listener_t *listener, held_t *held) noexcept nogil:
    if not count_below(&listener.live.sessions_active, listener.max_sessions):
        return False
    held.places |= HELD_LISTENER
    return True


cdef inline admitted_t admit_to_places(worker_t *w, listener_t *listener, bint datagrams, held_t *held) noexcept nogil:
    """Admit to process and listener, or to neither."""
    if not admit_to_process(w, datagrams, held):
        return ADMIT_PROCESS_FULL
    if not admit_to_listener(listener, held):
        release_process(w, held)
        return ADMIT_LISTENER_FULL
    return ADMITTED


cdef inline bint admit_by_rate(worker_t *w, listener_t *listener) noexcept nogil:
    return session_rate_take(listener.live, w.now_ns)


# ---- once its pool and its worker are known ----

cdef inline void hold_pool(pool_live_t *pool, held_t *held) noexcept nogil:
    """The pool is not freed while a client or session holds it."""
    if not held.places & HELD_POOL:
        held.places |= HELD_POOL
        shared_add(&pool.sessions_active, 1)


cdef inline void hold_other_pool(pool_live_t *before, pool_live_t *pool, held_t *held) noexcept nogil:
    """The session belongs to another pool than was held for it."""
    shared_add(&pool.sessions_active, 1)
    if held.places & HELD_POOL:
        shared_add(&before.sessions_active, -1)
    held.places |= HELD_POOL


cdef inline void hold_worker(worker_t *w, held_t *held) noexcept nogil:
    """It is this worker's work, even while it waits in an inbox."""
    if not held.places & HELD_WORKER:
        held.places |= HELD_WORKER
        shared_add(&w.assigned, 1)


# ---- moving, giving back ----

cdef inline void hold_as_before(
    plane_t *plane, listener_live_t *listener, pool_live_t *pool, const source_address_t *client, bint datagrams,
    held_t *held
) noexcept nogil:
    """For a session from another process: it was admitted there, so no limit applies."""
    cdef source_key_t key
    if published_load_u64(&listener.limits.source.counts) and client.length:
        source_key_fill(&key, &listener.limits.source, listener.id, client)
        held.source = sources_take_anyway(&plane.sources, &key)
    shared_add(&plane.sessions_of[datagrams], 1)
    shared_add(&plane.sessions_active, 1)
    shared_add(&listener.sessions_active, 1)
    held.places |= HELD_PROCESS | HELD_LISTENER | (HELD_DATAGRAMS if datagrams else 0)
    hold_pool(pool, held)


cdef inline void release(worker_t *w, listener_live_t *listener, pool_live_t *pool, held_t *held) noexcept nogil:
    """Give back all that it holds. `pool` may be NULL when none is held; `w` is the worker that is held, if one is."""
    if pool != NULL and held.places & HELD_POOL:
        shared_add(&pool.sessions_active, -1)
    if held.places & HELD_LISTENER:
        shared_add(&listener.sessions_active, -1)
    release_process(w, held)
    if held.places & HELD_WORKER:
        shared_add(&w.assigned, -1)
    if held.source != NULL:
        sources_give(&w.plane.sources, held.source, w.now_ns)
    hold_nothing(held)
