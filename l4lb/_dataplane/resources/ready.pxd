# Ready: sessions that used up their turn and wait for the next one, in order. A doubly linked list through the
# sessions, so that one that ends is removed at once. Owned by one worker; called on its thread.

from libc.stdint cimport uint16_t

from l4lb._dataplane.base.enums cimport NO_INDEX, SESSION_READY
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.sessions cimport sessions_at


cdef inline void ready_push(worker_t *w, session_t *s) noexcept nogil:
    if s.flags & SESSION_READY:
        return
    s.flags |= SESSION_READY
    s.next_ready = NO_INDEX
    s.previous_ready = w.ready_tail
    if w.ready_tail == NO_INDEX:
        w.ready_head = s.index
    else:
        sessions_at(&w.sessions, w.ready_tail).next_ready = s.index
    w.ready_tail = s.index
    w.ready_count += 1


cdef inline void ready_remove(worker_t *w, session_t *s) noexcept nogil:
    if not s.flags & SESSION_READY:
        return
    s.flags &= <uint16_t>~SESSION_READY
    if s.previous_ready == NO_INDEX:
        w.ready_head = s.next_ready
    else:
        sessions_at(&w.sessions, s.previous_ready).next_ready = s.next_ready
    if s.next_ready == NO_INDEX:
        w.ready_tail = s.previous_ready
    else:
        sessions_at(&w.sessions, s.next_ready).previous_ready = s.previous_ready
    w.ready_count -= 1
