# Queue: sessions that wait because every usable backend of their pool is at max_sessions. First come, first served on
# each worker; a place that frees anywhere wakes every worker on which a session waits.
#
# Called on the worker's thread. No wake-up is lost: a worker that queues a session looks for a place once more after
# counting it in `waiting`, and a worker that frees a place reads `waiting` after freeing it; both are sequentially
# consistent.

from libc.stdint cimport int64_t, uint32_t

from l4lb._dataplane.base.enums cimport SESSION_QUEUED
from l4lb._dataplane.base.linux cimport shared_add, shared_read, shared_swap_if
from l4lb._dataplane.base.types cimport pool_live_t, session_t
from l4lb._dataplane.base.worker_types cimport plane_t, worker_t
from l4lb._dataplane.resources.poller cimport worker_wake
from l4lb._dataplane.resources.sessions cimport list_append, list_remove


cdef inline bint queue_enter(worker_t *w, session_t *s, int64_t queue_size) noexcept nogil:
    """Wait at the end of this worker's queue; False when the pool's is full."""
    cdef int64_t waiting = shared_read(&s.pool.waiting)
    while True:
        if waiting >= queue_size:
            return False
        if shared_swap_if(&s.pool.waiting, &waiting, waiting + 1):
            break
    s.state = SESSION_QUEUED
    list_append(&w.sessions, &s.pool.queues[w.index], s)
    w.queue_poked = True                   # a place may have freed before it was counted
    return True


cdef inline void queue_return(worker_t *w, session_t *s) noexcept nogil:
    """A QUEUED session of another process goes on waiting here, whatever the queue's size. Called in the order in which
    they came."""
    shared_add(&s.pool.waiting, 1)
    list_append(&w.sessions, &s.pool.queues[w.index], s)
    w.queue_poked = True


cdef inline void queue_leave(worker_t *w, session_t *s) noexcept nogil:
    """Remove it from the queue, wherever it stands."""
    list_remove(&w.sessions, &s.pool.queues[w.index], s)
    shared_add(&s.pool.waiting, -1)


cdef inline void queue_poke(worker_t *w, pool_live_t *pool) noexcept nogil:
    """A place in `pool` was freed here: let waiting sessions try, on this worker and the others."""
    cdef plane_t *plane = w.plane
    cdef uint32_t i
    if shared_read(&pool.waiting) == 0:
        return
    w.queue_poked = True
    for i in range(plane.worker_count):
        if i != w.index:
            worker_wake(plane.workers[i])
