# Make room: places for new clients, at the cost of the UDP sessions that were idle for the longest, since those have no
# connection that would be cut. A worker can end only its own sessions: a TCP client for which none of them makes room
# goes to the worker with the most UDP sessions (tcp/accept.pxd:client_transfer_for_room). Called on the worker's
# thread.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from l4lb._dataplane.admission.admission cimport (
    ADMITTED, ADMIT_LISTENER_FULL, ADMIT_RATE_LIMITED, admit_by_rate, admit_to_places, admit_to_process, admitted_t,
)
from l4lb._dataplane.base.enums cimport CLOSE_RESOURCE_LIMIT, SHORTAGE_FILES, SHORTAGE_PORTS, shortage_t
from l4lb._dataplane.base.linux cimport AF_INET, counter_read
from l4lb._dataplane.base.types cimport held_t, listener_live_t, listener_t, session_t
from l4lb._dataplane.base.verdicts cimport shortage_count, shortage_of
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.udp.flows cimport flow_idlest
from l4lb._dataplane.udp.links cimport links_at, spares_close_one

cdef enum:
    ROOM_TRIES = 8                # another worker may take the place that was made


cdef inline session_t *idlest_session(worker_t *w) noexcept nogil:
    """Of all listeners; NULL when this worker has no UDP session. A listener that drains stays in the snapshot as long
    as it has sessions."""
    cdef session_t *idlest = NULL
    cdef session_t *s
    cdef uint32_t i
    if w.udp == NULL:
        return NULL
    for i in range(w.snapshot.listener_count):
        s = flow_idlest(w, w.snapshot.listeners[i].live)
        if s != NULL and (idlest == NULL or <int32_t>(s.flow.used_ms - idlest.flow.used_ms) < 0):
            idlest = s
    return idlest


cdef inline void idle_session_end(worker_t *w, session_t *s, bint datagrams) noexcept nogil:
    """End a UDP session. Its place is worth two file descriptors, and a TCP client needs both: a spare has the other
    one."""
    if not datagrams:
        links_at(&w.udp.links, s.flow.link).tag = 0           # it does not serve again, so it is closed
        spares_close_one(&w.udp.links)
    session_end(w, s, CLOSE_RESOURCE_LIMIT)


cdef inline admitted_t admit(worker_t *w, listener_t *listener, bint datagrams, held_t *held) noexcept nogil:
    """Admit a new client of the listener, if need be at the cost of idle UDP sessions. If refused, it holds no
    place."""
    cdef uint32_t _try
    cdef session_t *idlest
    cdef admitted_t admitted
    if not admit_by_rate(w, listener):
        return ADMIT_RATE_LIMITED
    admitted = admit_to_places(w, listener, datagrams, held)
    for _try in range(ROOM_TRIES):
        if admitted == ADMITTED:
            break
        idlest = flow_idlest(w, listener.live) if admitted == ADMIT_LISTENER_FULL else idlest_session(w)
        if idlest == NULL:
            break
        idle_session_end(w, idlest, datagrams)
        admitted = admit_to_places(w, listener, datagrams, held)
    return admitted


cdef inline bint admit_to_process_with_room(worker_t *w, bint datagrams, held_t *held) noexcept nogil:
    """The same for a client that its listener has admitted already."""
    cdef uint32_t _try
    cdef session_t *idlest
    for _try in range(ROOM_TRIES):
        if admit_to_process(w, datagrams, held):
            return True
        idlest = idlest_session(w)
        if idlest == NULL:
            return False
        idle_session_end(w, idlest, datagrams)
    return admit_to_process(w, datagrams, held)


cdef inline worker_t *worker_with_most_flows(worker_t *w) noexcept nogil:
    """The other worker with the most UDP sessions; NULL when none has any."""
    cdef worker_t *most = NULL
    cdef uint64_t count, highest = 0
    cdef uint32_t i
    for i in range(w.plane.worker_count):
        count = counter_read(&w.plane.workers[i].flow_count)
        if w.plane.workers[i] != w and count > highest:
            highest = count
            most = w.plane.workers[i]
    return most


cdef inline bint room_make_for_link(worker_t *w, listener_live_t *listener, int error) noexcept nogil:
    """After a link failed with `error`: whether another try is worthwhile. A spare link is closed first, then the
    session of this listener that was idle for the longest is ended. False leaves errno as it is."""
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
