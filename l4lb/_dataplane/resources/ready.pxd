# Ready: sessions that used up their turn and wait for the next one, in order. Owned by one worker; called on its
# thread.

from libc.stdint cimport uint16_t

from l4lb._dataplane.base.enums cimport SESSION_READY
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.sessions cimport list_append, list_remove


cdef inline void ready_push(worker_t *w, session_t *s) noexcept nogil:
    if s.flags & SESSION_READY:
        return
    s.flags |= SESSION_READY
    list_append(&w.sessions, &w.ready, s)
    w.ready_count += 1


cdef inline void ready_remove(worker_t *w, session_t *s) noexcept nogil:
    if not s.flags & SESSION_READY:
        return
    s.flags &= <uint16_t>~SESSION_READY
    list_remove(&w.sessions, &w.ready, s)
    w.ready_count -= 1
