# Evict: ends the sessions of backends that control has named (`backend_live_t.evict_version`), a few per turn so that
# the others are not held up. A pass visits every session once; sessions that begin behind it are left alone. Called on
# the worker's thread by worker/loop.pxd.

from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.base.enums cimport (
    EVICT_ENDED_MAX, EVICT_LOOKED_MAX, SESSIONS_PER_BLOCK, SESSION_FREE, close_reason_t,
)
from l4lb._dataplane.base.linux cimport published_load_u32, published_load_u64
from l4lb._dataplane.base.types cimport backend_live_t, session_t
from l4lb._dataplane.base.worker_types cimport eviction_t, worker_t
from l4lb._dataplane.resources.sessions cimport sessions_at
from l4lb._dataplane.session.closing cimport session_end


cdef inline void eviction_begin(worker_t *w) noexcept nogil:
    """Control has named more backends since: visit all sessions, from the first on."""
    w.eviction.version = published_load_u64(&w.plane.evict_version)
    w.eviction.at = 0
    w.eviction.running = True


cdef inline bint eviction_concerns(eviction_t *eviction, backend_live_t *backend) noexcept nogil:
    cdef uint64_t version
    if backend == NULL:
        return False
    version = published_load_u64(&backend.evict_version)
    return eviction.done < version and version <= eviction.version


cdef inline void eviction_run(worker_t *w) noexcept nogil:
    """A part of the pass."""
    cdef eviction_t *eviction = &w.eviction
    cdef uint32_t count = w.sessions.block_count * SESSIONS_PER_BLOCK
    cdef uint32_t looked = 0
    cdef uint32_t ended = 0
    cdef session_t *s
    while eviction.at < count and looked < EVICT_LOOKED_MAX and ended < EVICT_ENDED_MAX:
        s = sessions_at(&w.sessions, eviction.at)
        if s.state != SESSION_FREE and eviction_concerns(eviction, s.backend):
            session_end(w, s, <close_reason_t>published_load_u32(&s.backend.evict_reason))
            ended += 1
        eviction.at += 1
        looked += 1
    if eviction.at >= count:
        eviction.done = eviction.version
        eviction.running = False


cdef inline void evictions(worker_t *w) noexcept nogil:
    if published_load_u64(&w.plane.evict_version) != w.eviction.version:
        eviction_begin(w)
    if w.eviction.running:
        eviction_run(w)
