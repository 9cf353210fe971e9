# Access: whom a listener refuses by address (allow, deny). Checked before limits, so that nobody takes a place from
# those who may come in. Behind a PROXY header it is the client that the header names who is refused. Established
# sessions go on when the lists change. Called by workers; the ranges belong to a snapshot and do not change.

from libc.stdint cimport uint32_t

from l4lb._dataplane.base.ranges cimport ranges_hold
from l4lb._dataplane.base.types cimport listener_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline bint access_refused(const listener_t *listener, const source_address_t *source) noexcept nogil:
    """A unix client has no address: its socket's file decides who may connect."""
    return listener.access.refused.count and source.length and ranges_hold(&listener.access.refused, source)


cdef inline listener_t *session_listener_refusing(worker_t *w, session_t *s) noexcept nogil:
    """The listener of a session whose client is known only now, when that refuses it; NULL: it may go on."""
    cdef listener_t *listener
    cdef uint32_t i
    if not w.snapshot.refuses:
        return NULL
    for i in range(w.snapshot.listener_count):
        listener = &w.snapshot.listeners[i]
        if listener.live == s.listener:
            return listener if access_refused(listener, &s.source) else NULL
    return NULL
