# UDP: the life of a session from its first datagram to its end. Called by worker.pxd with events, due timers, ready
# sessions, and at the end of each turn; on the worker's thread.
#
#   a client's datagram --> the session of its key, or a new one: places, pick, link --> the link, as many at once as
#                           follow each other for the same session
#   a link's datagram   --> the answers of all sessions of this turn, batched, by the socket that the client asked
#
# Every function that may end the session is the last thing its caller does with it.

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from l4lb._dataplane.beginning cimport flow_arm, flow_of, refused_note
from l4lb._dataplane.closing cimport session_end
from l4lb._dataplane.connect cimport answer_watch, session_pool
from l4lb._dataplane.datagrams cimport (
    datagram_count, intake_bytes, intake_free, intake_init, intake_receive, post_add, post_add_train, post_flush,
    post_full,
)
from l4lb._dataplane.enums cimport (
    CLOSE_BACKEND_ABORT, CLOSE_CONNECT_FAILED, CLOSE_DRAIN, CLOSE_IDLE_TIMEOUT, CLOSE_MAX_DURATION, CLOSE_NORMAL,
    DATAGRAM_BATCH, DROP_ANSWER_NOT_SENT, DROP_BANDWIDTH, DROP_LATE, DROP_NOT_SENT, DROP_TOO_LARGE, NO_INDEX,
    SESSIONS_PER_BLOCK, SESSION_ANSWERED, SESSION_FLOW, UDP_TURN_BATCHES,
)
from l4lb._dataplane.flows cimport datagrams_dropped, flow_count_drops, flow_unbind, flow_used, flows_free, flows_init
from l4lb._dataplane.hashing cimport random_next
from l4lb._dataplane.limits cimport bandwidth_pay, bandwidth_room
from l4lb._dataplane.links cimport link_drain, links_at, links_free, links_init
from l4lb._dataplane.linux cimport (
    AF_INET, AF_INET6, EAGAIN, ECONNREFUSED, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, counter_add, published_load_u64, send,
    sockaddr_in, sockaddr_in6,
)
from l4lb._dataplane.notices cimport backend_failed
from l4lb._dataplane.ready cimport ready_push
from l4lb._dataplane.sessions cimport sessions_at
from l4lb._dataplane.types cimport accepting_t, limits_t, listener_live_t, session_t, worker_t
from l4lb._dataplane.udp_types cimport datagram_t, intake_t, link_t, post_t, route_t, udp_t

# ---- birth and death of the plane (the worker's thread; udp_close when it has stopped) ----

cdef inline int udp_open(worker_t *w) noexcept nogil:
    """For the first UDP socket of a worker. 0, or -1 when memory is short."""
    cdef udp_t *udp
    if w.udp != NULL:
        return 0
    udp = <udp_t *>calloc(1, sizeof(udp_t))
    if udp == NULL:
        return -1
    links_init(&udp.links)
    if intake_init(&udp.up) < 0 or intake_init(&udp.down) < 0 or flows_init(&udp.flows, random_next(&w.random)) < 0:
        intake_free(&udp.up)
        intake_free(&udp.down)
        free(udp)
        return -1
    w.udp = udp
    return 0


cdef inline void udp_close(worker_t *w) noexcept nogil:
    if w.udp == NULL:
        return
    links_free(&w.udp.links)
    flows_free(&w.udp.flows)
    intake_free(&w.udp.up)
    intake_free(&w.udp.down)
    free(w.udp)
    w.udp = NULL


cdef inline bint bandwidth_limited(session_t *s, int direction) noexcept nogil:
    cdef limits_t *limits = &s.listener.limits
    return (
        published_load_u64(&limits.bandwidth[direction]) or published_load_u64(&limits.total_bandwidth[direction])
    ) != 0


cdef inline bint bandwidth_allows(worker_t *w, session_t *s, int direction, datagram_t *d) noexcept nogil:
    """Above the limit datagrams are dropped: UDP has nobody to hold back."""
    cdef uint64_t *paid = &s.up.paid_until_ns if direction == 0 else &s.down.paid_until_ns
    cdef int64_t room = bandwidth_room(&s.listener.limits, paid, direction, w.now_ns)
    if room < 0:
        return True
    if room < <int64_t>d.length:
        datagrams_dropped(w, s.listener, DROP_BANDWIDTH, datagram_count(d))
        return False
    bandwidth_pay(&s.listener.limits, paid, direction, w.now_ns, d.length)
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
    """The client, in the family of the socket that it came in by."""
    cdef sockaddr_in *v4 = <sockaddr_in *>&route.to
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&route.to
    if not s.flow.wide:
        memset(v4, 0, sizeof(sockaddr_in))
        v4.sin_family = AF_INET
        v4.sin_port = s.source.port
        memcpy(&v4.sin_addr, s.source.bytes, 4)
        route.to_length = sizeof(sockaddr_in)
        return
    memset(v6, 0, sizeof(sockaddr_in6))
    v6.sin6_family = AF_INET6
    v6.sin6_port = s.source.port
    v6.sin6_scope_id = s.flow.scope_id
    if s.source.length == 4:
        memset(&v6.sin6_addr.s6_addr[10], 0xFF, 2)
        memcpy(&v6.sin6_addr.s6_addr[12], s.source.bytes, 4)
    else:
        memcpy(&v6.sin6_addr, s.source.bytes, 16)
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
    """All answers of a post leave by one socket: another one flushes it."""
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
    s.down.bytes += d.length
    counter_add(&s.backend.counters[w.index].datagrams_down, datagrams)
    counter_add(&s.backend.counters[w.index].bytes_down, d.length)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)


cdef inline void answer_forward(worker_t *w, session_t *s, link_t *link, uint32_t slot) noexcept nogil:
    """One datagram, or train, of a backend."""
    cdef datagram_t *d = &w.udp.down.datagrams[slot]
    cdef uint32_t datagrams = datagram_count(d)
    if d.kernel_drops:
        flow_count_drops(w, s, link, d.kernel_drops)
    if d.cut:
        datagrams_dropped(w, s.listener, DROP_TOO_LARGE, 1)
        return
    if not bandwidth_allows(w, s, 1, d):
        return
    flow_answered(w, s, d, datagrams)
    answer_post(w, s, slot)
    if s.flow.responses_left:
        s.flow.responses_left -= datagrams if datagrams < s.flow.responses_left else s.flow.responses_left
        if s.flow.responses_left == 0:
            session_end(w, s, CLOSE_NORMAL)


cdef inline int answers_receive(worker_t *w, link_t *link) noexcept nogil:
    """As many as are likely, behind the answers that wait for the end of the turn. See `intake_receive`."""
    cdef intake_t *down = &w.udp.down
    cdef uint32_t count = link.batch
    if DATAGRAM_BATCH - down.used < count:
        udp_flush(w)
    return intake_receive(down, link.fd, down.used, count, False)


cdef inline void answers_forward(worker_t *w, link_t *link, uint32_t count) noexcept nogil:
    """Those that were received last. Those behind the last one that the session may have are dropped."""
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
    """The answers that came before the error that its socket reported."""
    cdef uint32_t _batch
    cdef int got
    for _batch in range(DATAGRAM_BATCH):
        got = answers_receive(w, link)
        if got > 0:
            answers_forward(w, link, <uint32_t>got)
        if got == -EAGAIN or link.session == NO_INDEX:
            return


# ---- up ----

cdef inline bint slots_alike(intake_t *up, uint32_t a, uint32_t b) noexcept nogil:
    """Whether two received datagrams belong to one session."""
    return (
        not up.datagrams[b].cut
        and up.headers[a].msg_hdr.msg_namelen == up.headers[b].msg_hdr.msg_namelen
        and memcmp(&up.names[a], &up.names[b], up.headers[a].msg_hdr.msg_namelen) == 0
        and up.datagrams[a].local_length == up.datagrams[b].local_length
        and memcmp(up.datagrams[a].local, up.datagrams[b].local, up.datagrams[a].local_length) == 0
    )


cdef inline void route_up(worker_t *w, session_t *s, route_t *route, datagram_t *d) noexcept nogil:
    cdef link_t *link = links_at(&w.udp.links, s.flow.link)
    route.fd = link.fd
    route.flow = s.flow
    route.lost = &s.listener.counters[w.index].dropped[<int>DROP_NOT_SENT]
    route.tos = d.tos
    route.local = NULL
    route.to_length = 0
    route.wide = link.wide


cdef inline void flow_sent_up(worker_t *w, session_t *s, uint64_t datagrams, uint64_t size) noexcept nogil:
    if datagrams == 0:
        return
    s.flow.datagrams_up += datagrams
    s.up.bytes += size
    counter_add(&s.backend.counters[w.index].datagrams_up, datagrams)
    counter_add(&s.backend.counters[w.index].bytes_up, size)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)


cdef inline void flow_refused(worker_t *w, session_t *s) noexcept nogil:
    """ICMP said that nobody listens at the backend's port: the client's next datagram begins a session elsewhere."""
    cdef link_t *link = links_at(&w.udp.links, s.flow.link)
    cdef bint answered
    refused_note(w, s.backend.id)
    link_read_rest(w, link)
    if link.session != s.index:
        return
    answered = s.flow.datagrams_down != 0
    if not answered:
        counter_add(&s.backend.counters[w.index].connect_failures, 1)
        backend_failed(w, session_pool(w, s), s.backend)
    link.tag = 0                              # it is not to serve again
    session_end(w, s, CLOSE_BACKEND_ABORT if answered else CLOSE_CONNECT_FAILED)


cdef inline int send_one(worker_t *w, session_t *s, uint32_t slot) noexcept nogil:
    """The common case: a datagram with nothing to tell. As `post_flush`.

    send(2): ECONNREFUSED, see `flow_refused`; EAGAIN, ENOBUFS, ENOMEM, EMSGSIZE, ENETUNREACH, EPERM: lost.
    """
    cdef datagram_t *d = &w.udp.up.datagrams[slot]
    cdef int fd = links_at(&w.udp.links, s.flow.link).fd
    while send(fd, intake_bytes(&w.udp.up, slot), d.length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
        if errno == EINTR:
            continue
        if errno == ECONNREFUSED:
            return <int>slot
        datagrams_dropped(w, s.listener, DROP_NOT_SENT, 1)
        return -1
    flow_sent_up(w, s, 1, d.length)
    return -1


cdef inline int send_many(worker_t *w, session_t *s, uint32_t first, uint32_t count) noexcept nogil:
    """As `post_flush`."""
    cdef intake_t *up = &w.udp.up
    cdef post_t *post = &w.udp.post_up
    cdef datagram_t *d
    cdef route_t route
    cdef uint32_t slot
    cdef int refused
    post.sent_datagrams = post.sent_bytes = 0
    for slot in range(first, first + count):
        d = &up.datagrams[slot]
        route_up(w, s, &route, d)
        if d.segment_bytes:
            post_add_train(post, &route, intake_bytes(up, slot), d.length, d.segment_bytes, slot)
        else:
            post_add(post, &route, intake_bytes(up, slot), d.length, NULL, 0, slot)
    refused = post_flush(post)
    flow_sent_up(w, s, post.sent_datagrams, post.sent_bytes)
    return refused


cdef inline uint32_t flow_allowance(session_t *s, uint32_t count) noexcept nogil:
    """How many of `count` datagrams are still this session's, by udp_requests."""
    return s.flow.requests_left if s.flow.requests_left and s.flow.requests_left < count else count


cdef inline void flow_spend(worker_t *w, session_t *s, uint32_t count) noexcept nogil:
    """After the last of udp_requests the client's next datagram begins a new session; this one lives on for its
    answers."""
    if s.flow.requests_left:
        s.flow.requests_left -= count
        if s.flow.requests_left == 0:
            flow_unbind(w, s)


cdef inline uint32_t flow_forward(worker_t *w, session_t *s, uint32_t first, uint32_t count) noexcept nogil:
    """Send datagrams of one session to its backend. How many are dealt with: fewer when the session ended, or is not
    to have the others."""
    cdef intake_t *up = &w.udp.up
    cdef datagram_t *d = &up.datagrams[first]
    cdef int refused
    count = flow_allowance(s, count)
    if bandwidth_limited(s, 0):
        count = 1
        if not bandwidth_allows(w, s, 0, d):
            return 1
    if count == 1 and not d.segment_bytes and not d.tos:
        refused = send_one(w, s, first)
    else:
        refused = send_many(w, s, first, count)
    if refused >= 0:
        flow_refused(w, s)
        return <uint32_t>refused - first
    flow_used(w, s)
    flow_spend(w, s, count)
    return count


cdef inline void udp_event(worker_t *w, accepting_t *from_) noexcept nogil:
    """Datagrams of clients. Level-triggered: what is left after some batches comes with the next turn.

    recvmmsg(2): EAGAIN empty, EINTR and what concerns one datagram alone (a bad checksum): the next event tells.
    """
    cdef intake_t *up = &w.udp.up
    cdef session_t *s
    cdef uint32_t _batch, slot, alike
    cdef int got
    for _batch in range(UDP_TURN_BATCHES):
        got = intake_receive(up, from_.fd, 0, DATAGRAM_BATCH, True)
        slot = 0
        while got > 0 and slot < <uint32_t>got:
            s = flow_of(w, from_, slot)
            if s == NULL:
                slot += 1
                continue
            alike = 1
            while slot + alike < <uint32_t>got and slots_alike(up, slot, slot + alike):
                alike += 1
            slot += flow_forward(w, s, slot, alike)
        if got < DATAGRAM_BATCH:
            return


cdef inline void link_failed(worker_t *w, link_t *link, int error) noexcept nogil:
    """recvmmsg(2) on a connected socket: ECONNREFUSED an ICMP message came; EAGAIN, EINTR nothing to say; other errors
    come with IP_RECVERR alone."""
    if error == -ECONNREFUSED and link.session != NO_INDEX:
        flow_refused(w, sessions_at(&w.sessions, link.session))


cdef inline void link_read(worker_t *w, link_t *link) noexcept nogil:
    """Edge-triggered: read until a call brings less than it could; after some calls the others come first."""
    cdef uint32_t _batch
    cdef int got
    for _batch in range(UDP_TURN_BATCHES):
        got = answers_receive(w, link)
        if got <= 0:
            link_failed(w, link, got)
            return
        answers_forward(w, link, <uint32_t>got)
        if link.session == NO_INDEX:
            if link.fd >= 0 and got == link.batch:
                link_drain(w, link)
            return
        if <uint32_t>got < link.batch:
            link.batch = <uint16_t>got if got > 2 else 2
            return
        if link.batch < DATAGRAM_BATCH:
            link.batch *= 2
    ready_push(w, sessions_at(&w.sessions, link.session))


cdef inline void link_event(worker_t *w, uint32_t index) noexcept nogil:
    """Answers of a backend, or an error that tells that there will be none."""
    cdef link_t *link = links_at(&w.udp.links, index)
    if link.fd < 0:
        return                                 # it was closed earlier in this turn
    if link.session != NO_INDEX:
        link_read(w, link)
    else:
        link_drain(w, link)


# ---- what worker.pxd calls besides ----

cdef inline void flow_turn(worker_t *w, session_t *s) noexcept nogil:
    """Its turn in the ready list has come."""
    link_read(w, links_at(&w.udp.links, s.flow.link))


cdef inline void flow_timeout(worker_t *w, session_t *s) noexcept nogil:
    """Its timer fired: a deadline has passed, or has moved since and is armed again."""
    cdef uint32_t now_ms = <uint32_t>w.now_ms
    if s.expires_ms and <int32_t>(now_ms - s.expires_ms) >= 0:
        session_end(w, s, CLOSE_MAX_DURATION)
    elif s.idle_ms and now_ms - s.active_ms >= s.idle_ms:
        session_end(w, s, CLOSE_IDLE_TIMEOUT)
    else:
        flow_arm(w, s)


cdef inline void flows_end_of(worker_t *w, int fd) noexcept nogil:
    """A listening socket is about to close: nobody could answer its clients any more."""
    cdef uint32_t i
    cdef session_t *s
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if s.state == SESSION_FLOW and s.flow.fd == fd:
            session_end(w, s, CLOSE_DRAIN)
