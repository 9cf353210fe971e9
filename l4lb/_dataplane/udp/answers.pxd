# Answers: datagrams of backends on their way to clients, gathered over a turn and sent together. Called on the worker's
# thread by events.pxd and reports.pxd.

from libc.stdint cimport int64_t, uint32_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.admission.limits cimport (
    bandwidth_limited, bandwidth_pay, bandwidth_room, bandwidth_source_is_over, bandwidth_t, session_bandwidth,
    source_note_limited,
)
from l4lb._dataplane.base.enums cimport (
    CLOSE_NORMAL, DATAGRAM_BATCH, DROP_ANSWER_NOT_SENT, DROP_BANDWIDTH, DROP_LATE, DROP_TOO_LARGE, NO_INDEX,
    SESSION_ANSWERED,
)
from l4lb._dataplane.base.linux cimport (
    AF_INET, AF_INET6, EAGAIN, counter_add, shared_add, sockaddr_in, sockaddr_in6,
)
from l4lb._dataplane.base.source_types cimport SOURCE_LIMIT_BANDWIDTH
from l4lb._dataplane.base.types cimport listener_live_t, session_t
from l4lb._dataplane.base.udp_types cimport datagram_t, intake_t, link_t, post_t, route_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.sessions cimport sessions_at
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.session.latency cimport answer_watch
from l4lb._dataplane.udp.datagrams cimport datagram_count, datagram_first_bytes, intake_bytes, intake_receive
from l4lb._dataplane.udp.flows cimport datagrams_dropped, flow_count_drops, flow_used
from l4lb._dataplane.balancing.quic cimport quic_note_given_id
from l4lb._dataplane.udp.send_batch cimport post_add, post_add_train, post_flush, post_full


cdef inline bint bandwidth_allows(
    worker_t *w, session_t *s, const bandwidth_t *bandwidth, datagram_t *d
) noexcept nogil:
    """Datagrams above the limit are dropped: over UDP there is no sender to hold back."""
    cdef int64_t room
    if not bandwidth_limited(bandwidth):
        return True
    room = bandwidth_room(bandwidth, w.now_ns)
    if bandwidth_source_is_over(bandwidth, w.now_ns):
        source_note_limited(w, s, SOURCE_LIMIT_BANDWIDTH)
    if 0 <= room < <int64_t>d.length:
        datagrams_dropped(w, s.listener, DROP_BANDWIDTH, datagram_count(d))
        return False
    bandwidth_pay(bandwidth, w.now_ns, d.length)
    return True


# ---- down ----

cdef inline void udp_flush(worker_t *w) noexcept nogil:
    """Send the answers that were gathered."""
    if w.udp == NULL:
        return
    if w.udp.post_down.count:
        post_flush(&w.udp.post_down)
    w.udp.down.used = 0


cdef inline void route_to(route_t *route, session_t *s) noexcept nogil:
    """The address of the datagrams' sender, in the family of the socket that they come in by."""
    cdef sockaddr_in *v4 = <sockaddr_in *>&route.to
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&route.to
    if not s.flow.wide:
        memset(v4, 0, sizeof(sockaddr_in))
        v4.sin_family = AF_INET
        v4.sin_port = s.flow.peer_port
        memcpy(&v4.sin_addr, s.flow.peer, 4)
        route.to_length = sizeof(sockaddr_in)
        return
    memset(v6, 0, sizeof(sockaddr_in6))
    v6.sin6_family = AF_INET6
    v6.sin6_port = s.flow.peer_port
    v6.sin6_scope_id = s.flow.scope_id
    if s.flow.peer_length == 4:
        memset(&v6.sin6_addr.s6_addr[10], 0xFF, 2)
        memcpy(&v6.sin6_addr.s6_addr[12], s.flow.peer, 4)
    else:
        memcpy(&v6.sin6_addr, s.flow.peer, 16)
    route.to_length = sizeof(sockaddr_in6)


cdef inline void route_down(worker_t *w, session_t *s, route_t *route, datagram_t *d) noexcept nogil:
    route.fd = s.flow.fd
    route.flow = s.flow
    route.lost = &s.listener.counters[w.index].dropped[<int>DROP_ANSWER_NOT_SENT]
    route.tos = d.tos
    route.interface = s.flow.interface
    route.wide = s.flow.wide
    route.local = s.flow.local if s.flow.local_length else NULL
    route_to(route, s)


cdef inline void answer_post(worker_t *w, session_t *s, uint32_t slot) noexcept nogil:
    """All answers of a post are sent by one socket: for another socket it is flushed first."""
    cdef post_t *post = &w.udp.post_down
    cdef datagram_t *d = &w.udp.down.datagrams[slot]
    cdef uint8_t *data = intake_bytes(&w.udp.down, slot)
    cdef route_t route
    if post.count and (post.fd != s.flow.fd or post_full(post)):
        post_flush(post)
    route_down(w, s, &route, d)
    if d.segment_bytes:
        post_add_train(post, &route, data, d.length, d.segment_bytes, slot)
    else:
        post_add(post, &route, data, d.length, NULL, 0, slot)


cdef inline void flow_answered(worker_t *w, session_t *s, datagram_t *d, uint32_t datagrams) noexcept nogil:
    s.flow.datagrams_down += datagrams
    s.flow.unreachable = False
    s.active_ms = <uint32_t>w.now_ms
    s.down.bytes += d.length
    counter_add(&s.backend.counters[w.index].datagrams_down, datagrams)
    counter_add(&s.backend.counters[w.index].bytes_down, d.length)
    if s.held.source != NULL:
        shared_add(&s.held.source.bytes[1], d.length)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)


cdef inline void answer_forward(worker_t *w, session_t *s, link_t *link, uint32_t slot) noexcept nogil:
    """Forward one datagram, or train, of a backend."""
    cdef datagram_t *d = &w.udp.down.datagrams[slot]
    cdef uint32_t datagrams = datagram_count(d)
    if d.kernel_drops:
        flow_count_drops(w, s, link, d.kernel_drops)
    if d.cut:
        datagrams_dropped(w, s.listener, DROP_TOO_LARGE, 1)
        return
    if s.flow.one_way:
        datagrams_dropped(w, s.listener, DROP_LATE, datagrams)
        return
    bandwidth = session_bandwidth(s, 1)
    if not bandwidth_allows(w, s, &bandwidth, d):
        return
    flow_answered(w, s, d, datagrams)
    if s.flow.quic:
        quic_note_given_id(s, intake_bytes(&w.udp.down, slot), datagram_first_bytes(d))
    answer_post(w, s, slot)
    if s.flow.responses and s.flow.datagrams_down >= s.flow.responses * s.flow.datagrams_up:
        session_end(w, s, CLOSE_NORMAL)


cdef inline int answers_receive(worker_t *w, link_t *link) noexcept nogil:
    """Receive as many as are likely, behind the answers that wait for the end of the turn. See `intake_receive`.

    Fewer than could come: the queue was empty, or ICMP has reported an error meanwhile, which is an event of its own.
    """
    cdef intake_t *down = &w.udp.down
    cdef uint32_t count = link.batch
    cdef int got
    if DATAGRAM_BATCH - down.used < count:
        udp_flush(w)
    got = intake_receive(down, link.fd, down.used, count, False)
    link.unread = got == <int>count or (got < 0 and got != -EAGAIN)
    return got


cdef inline void answers_forward(worker_t *w, link_t *link, uint32_t count) noexcept nogil:
    """Forward the answers that were received last. Those after the last one that the session may have are dropped."""
    cdef session_t *s = sessions_at(&w.sessions, link.session)
    cdef listener_live_t *listener = s.listener
    cdef uint32_t first = w.udp.down.used
    cdef uint32_t i
    w.udp.down.used += count
    for i in range(count):
        if link.session == NO_INDEX:
            datagrams_dropped(w, listener, DROP_LATE, datagram_count(&w.udp.down.datagrams[first + i]))
        else:
            answer_forward(w, s, link, first + i)
    if link.session != NO_INDEX:
        flow_used(w, s)


cdef inline void link_read_rest(worker_t *w, link_t *link) noexcept nogil:
    """Read the answers that came before the error that the socket reported: on to EAGAIN, past other errors
    (paths.pxd)."""
    cdef uint32_t _batch
    cdef int got
    link.batch = DATAGRAM_BATCH
    for _batch in range(DATAGRAM_BATCH):
        got = answers_receive(w, link)
        if got > 0:
            answers_forward(w, link, <uint32_t>got)
        if got == -EAGAIN or link.session == NO_INDEX:
            return
