# Sweep: one pass over all sessions, which control asks for: to list those that a filter selects, or to end them. Each
# turn visits a few thousand and takes a few, so that sessions are not held up. Called on the worker's thread by
# worker/loop.pxd; `sweep_publish` on control's.
#
# Ownership: control makes a sweep_t, publishes it and leaves it alone until every worker has set `done` in its part; a
# worker touches neither after that. So there is one sweep at a time, and nothing that both write.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from l4lb._dataplane.base.enums cimport (
    EVICT_ENDED_MAX, EVICT_LOOKED_MAX, NO_INDEX, SESSIONS_PER_BLOCK, close_reason_t,
)
from l4lb._dataplane.base.linux cimport published_load_u64, published_store_u32, published_store_u64
from l4lb._dataplane.base.types cimport backend_live_t, listener_live_t, pool_live_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport filter_t, found_t, plane_t, sweep_part_t, sweep_t, sweeping_t, worker_t
from l4lb._dataplane.resources.sessions cimport session_is_here, sessions_at
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.session.records cimport session_local

# ---- control's thread ----

cdef inline void sweep_publish(plane_t *plane, sweep_t *sweep) noexcept nogil:
    """After every worker is done with the one before. Then wake the workers."""
    plane.sweep = sweep
    published_store_u64(&plane.sweep_version, plane.sweep_version + 1)


# ---- selection ----

cdef inline bint filter_takes_source(filter_t *wanted, source_address_t *source) noexcept nogil:
    cdef uint32_t whole = wanted.source_bits // 8
    cdef uint8_t rest = <uint8_t>(wanted.source_bits % 8)
    cdef uint32_t i
    if wanted.source_length == 0:
        return True
    if wanted.source_scope and wanted.source_scope != source.scope_id:
        return False
    if source.length != wanted.source_length or (wanted.source_port and wanted.source_port != source.port):
        return False
    for i in range(whole):
        if source.bytes[i] != wanted.source[i]:
            return False
    return rest == 0 or (source.bytes[whole] ^ wanted.source[whole]) >> (8 - rest) == 0


cdef inline bint filter_takes_backend(filter_t *wanted, backend_live_t *backend) noexcept nogil:
    cdef uint32_t i
    if wanted.backend_count == 0:
        return True
    if backend == NULL:
        return False
    for i in range(wanted.backend_count):
        if wanted.backend_ids[i] == backend.id:
            return True
    return False


cdef inline bint filter_takes(
    filter_t *wanted, listener_live_t *listener, pool_live_t *pool, backend_live_t *backend, source_address_t *source
) noexcept nogil:
    """`backend` may be NULL: the session has none yet."""
    return (
        (wanted.listener_id == 0 or wanted.listener_id == listener.id)
        and (wanted.pool_slot == NO_INDEX or wanted.pool_slot == pool.slot)
        and filter_takes_source(wanted, source)
        and filter_takes_backend(wanted, backend)
    )


# ---- what is listed ----

cdef inline void found_fill(worker_t *w, found_t *found, session_t *s) noexcept nogil:
    found.session_id = s.id
    found.listener_id = s.listener.id
    found.pool_slot = s.pool.slot
    found.backend_id = s.backend.id if s.backend != NULL else 0
    found.started_ns = s.started_ns
    found.idle_ms = <uint32_t>w.now_ms - s.active_ms
    found.bytes_up = s.up.bytes
    found.bytes_down = s.down.bytes
    found.source = s.source
    found.state = s.state
    found.tagged = s.tagged
    session_local(s, &found.local)


# ---- the pass ----

cdef inline void sweep_begin(worker_t *w, uint64_t version) noexcept nogil:
    """Visit all sessions that exist now."""
    cdef sweeping_t *sweeping = &w.sweeping
    sweeping.version = version
    sweeping.sweep = w.plane.sweep
    sweeping.at = 0
    sweeping.end = w.sessions.block_count * SESSIONS_PER_BLOCK


cdef inline bint sweep_wants(worker_t *w, sweep_t *sweep, session_t *s) noexcept nogil:
    if not session_is_here(s) or (sweep.wanted.session_id and sweep.wanted.session_id != s.id):
        return False
    if sweep.wanted.tagged and not s.tagged:
        return False
    return filter_takes(&sweep.wanted, s.listener, s.pool, s.backend, &s.source)


cdef inline void sweep_take(worker_t *w, sweep_t *sweep, session_t *s) noexcept nogil:
    """List it while there is room, and end it if that was asked."""
    cdef sweep_part_t *part = &sweep.parts[w.index]
    part.matched += 1
    if part.found_count < sweep.limit:
        found_fill(w, &part.found[part.found_count], s)
        part.found_count += 1
    if sweep.ends:
        session_end(w, s, <close_reason_t>sweep.reason)


cdef inline void sweep_run(worker_t *w) noexcept nogil:
    """A part of the pass."""
    cdef sweeping_t *sweeping = &w.sweeping
    cdef uint32_t looked = 0
    cdef uint32_t taken = 0
    cdef session_t *s
    while sweeping.at < sweeping.end and looked < EVICT_LOOKED_MAX and taken < EVICT_ENDED_MAX:
        s = sessions_at(&w.sessions, sweeping.at)
        if sweep_wants(w, sweeping.sweep, s):
            sweep_take(w, sweeping.sweep, s)
            taken += 1
        sweeping.at += 1
        looked += 1
    if sweeping.at >= sweeping.end:
        published_store_u32(&sweeping.sweep.parts[w.index].done, 1)
        sweeping.sweep = NULL


cdef inline void sweeps(worker_t *w) noexcept nogil:
    cdef uint64_t version = published_load_u64(&w.plane.sweep_version)
    if version != w.sweeping.version:
        sweep_begin(w, version)
    if w.sweeping.sweep != NULL:
        sweep_run(w)
