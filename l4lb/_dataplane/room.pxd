# Room: at the end of this host's ports or of the file descriptors a new UDP session takes those of an older one, as it
# takes its place at max_sessions. Called on the worker's thread by beginning.pxd.

from l4lb._dataplane.closing cimport session_end
from l4lb._dataplane.enums cimport CLOSE_RESOURCE_LIMIT, SHORTAGE_FILES, SHORTAGE_PORTS, shortage_t
from l4lb._dataplane.flows cimport flow_idlest
from l4lb._dataplane.links cimport links_at, spares_close_one
from l4lb._dataplane.linux cimport AF_INET
from l4lb._dataplane.types cimport listener_live_t, session_t, worker_t
from l4lb._dataplane.verdicts cimport shortage_count, shortage_of


cdef inline bint room_make(worker_t *w, listener_live_t *listener, int error) noexcept nogil:
    """After a link failed of `error`: whether another try is worth it. A spare link goes first, then the session of
    this listener that was idle for the longest. False leaves errno as it is."""
    cdef shortage_t shortage = shortage_of(error, AF_INET)
    cdef session_t *idlest
    if shortage != SHORTAGE_PORTS and shortage != SHORTAGE_FILES:
        return False
    if not spares_close_one(&w.udp.links):
        idlest = flow_idlest(w, listener)
        if idlest == NULL:
            return False
        links_at(&w.udp.links, idlest.flow.link).tag = 0       # it is closed, not kept
        session_end(w, idlest, CLOSE_RESOURCE_LIMIT)
    shortage_count(w, shortage)
    return True
