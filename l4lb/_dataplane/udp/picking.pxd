# Picking: a backend for a UDP session, if possible one for which the network has reported no error lately. Called on
# the worker's thread by connect.pxd and create.pxd.

from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.balancing.pick cimport pool_pick
from l4lb._dataplane.base.hashing cimport random_next
from l4lb._dataplane.base.parts cimport tried_t
from l4lb._dataplane.base.types cimport backend_t, pick_t, pool_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.session.setup cimport session_pool
from l4lb._dataplane.udp.paths cimport refused_lately

cdef enum:
    PASSED_OVER = 32              # backends that have refused lately; at most so many are left out for one session


cdef inline void pick_begin(worker_t *w, pick_t *pick, pool_t *pool, uint64_t hash) noexcept nogil:
    pick.pool = pool
    pick.hash = hash
    pick.now_ms = <uint32_t>w.now_ms


cdef inline backend_t *pick_unrefused(worker_t *w, pick_t *pick) noexcept nogil:
    """A reserved backend for which the network has reported no error lately, or NULL; those in `pick.tried`, which has
    room for more, are left out."""
    cdef tried_t *tried = pick.tried
    cdef backend_t *backend
    while True:
        backend = pool_pick(pick)
        if backend == NULL or not refused_lately(w, backend.live.id):
            return backend
        backend_release(backend.live)
        if tried.count == tried.capacity:
            return NULL
        tried.backend_ids[tried.count] = backend.live.id
        tried.count += 1


cdef inline backend_t *flow_pick(worker_t *w, pool_t *pool, uint64_t hash) noexcept nogil:
    """A reserved backend, if possible one that has not refused a datagram lately, of whatever tier; NULL when none has
    a place."""
    cdef uint32_t ids[PASSED_OVER]
    cdef tried_t tried
    cdef pick_t pick
    cdef backend_t *backend
    tried.count = 0
    tried.capacity = PASSED_OVER
    tried.backend_ids = ids
    pick.tried = &tried
    pick_begin(w, &pick, pool, hash)
    backend = pick_unrefused(w, &pick)
    if backend == NULL and tried.count:
        tried.count = 0
        backend = pool_pick(&pick)
    return backend


cdef inline bint flow_has_other_backend(worker_t *w, session_t *s) noexcept nogil:
    """Whether the client of a session whose backend cannot be reached would find another."""
    cdef uint32_t ids[PASSED_OVER]
    cdef tried_t tried
    cdef pick_t pick
    cdef pool_t *pool = session_pool(w, s)
    cdef backend_t *backend
    if pool == NULL:
        return False
    ids[0] = s.backend.id
    tried.count = 1
    tried.capacity = PASSED_OVER
    tried.backend_ids = ids
    pick.tried = &tried
    pick_begin(w, &pick, pool, random_next(&w.random))
    backend = pick_unrefused(w, &pick)
    if backend == NULL:
        return False
    backend_release(backend.live)
    return True
