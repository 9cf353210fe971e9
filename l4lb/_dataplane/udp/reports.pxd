# Reports: what a session does about an error that the network, or a firewall of this host, reports for datagrams to its
# backend (paths.pxd says what each error means). Called on the worker's thread by events.pxd.

from libc.stdint cimport uint32_t

from l4lb._dataplane.balancing.failure_notices cimport backend_failed
from l4lb._dataplane.base.enums cimport (
    CLOSE_BACKEND_ABORT, CLOSE_CONNECT_FAILED, CLOSE_RESOURCE_LIMIT, DATAGRAM_BATCH, FAILURE_REFUSED,
    FAILURE_RESOURCES, FAILURE_UNREACHABLE, PATH_ERROR_COUNT, PATH_REFUSED, SHORTAGE_DENIED, path_error_t,
)
from l4lb._dataplane.base.linux cimport counter_add
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.udp_types cimport link_t
from l4lb._dataplane.base.verdicts cimport shortage_count
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.session.setup cimport session_pool
from l4lb._dataplane.udp.answers cimport link_read_rest
from l4lb._dataplane.udp.links cimport links_at
from l4lb._dataplane.udp.paths cimport path_error_of, path_is_closed, refused_lately, refused_note


cdef inline void flow_unreachable(worker_t *w, session_t *s) noexcept nogil:
    """Its backend cannot be reached: the client's next datagram begins a session elsewhere, if another backend has a
    place. The session waits for answers that are under way."""
    refused_note(w, s.backend.id)
    if s.flow.unreachable:
        return
    s.flow.unreachable = True
    if s.flow.datagrams_down == 0:
        counter_add(&s.backend.counters[w.index].connect_failures[<int>FAILURE_UNREACHABLE], 1)
        backend_failed(w, session_pool(w, s), s.backend)


cdef inline bint flow_note_path_error(worker_t *w, session_t *s, int error) noexcept nogil:
    """Count what the network reported for the session's datagrams, and act on it. False: it reported nothing."""
    cdef path_error_t kind = path_error_of(error)
    if kind == PATH_ERROR_COUNT:
        return False
    counter_add(&s.backend.counters[w.index].path_errors[<int>kind], 1)
    if path_is_closed(kind):
        flow_unreachable(w, s)
    return True


cdef inline void flow_note_post_errors(worker_t *w, session_t *s) noexcept nogil:
    """The same for the errors of a post."""
    cdef uint32_t *errors = w.udp.post_up.path_errors
    cdef int i
    for i in range(<int>PATH_ERROR_COUNT):
        if errors[i]:
            counter_add(&s.backend.counters[w.index].path_errors[i], errors[i])
            if path_is_closed(<path_error_t>i):
                flow_unreachable(w, s)


cdef inline void flow_refused(worker_t *w, session_t *s) noexcept nogil:
    """ICMP reported that nobody listens at the backend's port, or a firewall of this host blocks everything to it
    (`denied`): the client's next datagram begins a session elsewhere."""
    cdef link_t *link = links_at(&w.udp.links, s.flow.link)
    cdef bint answered
    if not s.flow.denied:
        counter_add(&s.backend.counters[w.index].path_errors[<int>PATH_REFUSED], 1)
    refused_note(w, s.backend.id)
    link_read_rest(w, link)
    if link.session != s.index:
        return
    answered = s.flow.datagrams_down != 0
    link.tag = 0                              # it does not serve again
    if not answered and s.flow.denied:
        shortage_count(w, SHORTAGE_DENIED)
        counter_add(&s.backend.counters[w.index].connect_failures[<int>FAILURE_RESOURCES], 1)
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return
    if not answered:
        counter_add(&s.backend.counters[w.index].connect_failures[<int>FAILURE_REFUSED], 1)
        backend_failed(w, session_pool(w, s), s.backend)
    session_end(w, s, CLOSE_BACKEND_ABORT if answered else CLOSE_CONNECT_FAILED)


cdef inline bint flow_denied(worker_t *w, session_t *s) noexcept nogil:
    """send(2): EPERM, a local firewall (base/verdicts.pxd). Whether its first datagram should try another backend: not
    when this one was passed over already, so that all were tried, nor without end."""
    s.flow.denied = True
    if s.flow.datagrams_up or refused_lately(w, s.backend.id) or w.udp.denials >= DATAGRAM_BATCH:
        return False
    w.udp.denials += 1
    return True
