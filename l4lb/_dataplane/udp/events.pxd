# UDP: the life of a session from its first datagram to its end. Called by worker/loop.pxd with events, due timers and
# ready sessions, on the worker's thread.
#
#   a client's datagram --> the session of its key, or a new one: places, pick, link --> the link, as many at once as
#                           follow each other for the same session
#   a link's datagram   --> the answers of all sessions of this turn, batched, by the socket that the client sent to
#
# Every function that may end the session is the last thing its caller does with it.

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from l4lb._dataplane.admission.limits cimport bandwidth_limited, bandwidth_t, session_bandwidth
from l4lb._dataplane.balancing.quic cimport quic_confirm_id
from l4lb._dataplane.base.enums cimport (
    CLOSE_DRAIN, CLOSE_IDLE_TIMEOUT, CLOSE_MAX_DURATION, CLOSE_NORMAL, DATAGRAM_BATCH, DATAGRAM_PAYLOAD_MAX,
    DROP_NOT_SENT, DROP_TOO_LARGE, DROP_UNROUTED, LINK_BATCH_MIN, NO_INDEX, SESSIONS_PER_BLOCK, SESSION_ANSWERED,
    SESSION_FLOW, UDP_TURN_BATCHES,
)
from l4lb._dataplane.base.linux cimport (
    EAGAIN, ECONNREFUSED, EINTR, EPERM, MSG_DONTWAIT, MSG_NOSIGNAL, counter_add, send, shared_add, unlikely,
)
from l4lb._dataplane.base.parts cimport proxy_send_t
from l4lb._dataplane.base.types cimport listener_t, pool_t, session_t, source_address_t
from l4lb._dataplane.base.udp_types cimport datagram_t, intake_t, link_t, post_t, route_t
from l4lb._dataplane.base.worker_types cimport accepting_t, worker_t
from l4lb._dataplane.proxy_protocol.sender cimport proxy_client_t, proxy_send_write
from l4lb._dataplane.proxy_protocol.types cimport PROXY_DGRAM
from l4lb._dataplane.resources.ready cimport ready_push
from l4lb._dataplane.resources.sessions cimport sessions_at
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.session.latency cimport answer_watch
from l4lb._dataplane.session.setup cimport session_pool
from l4lb._dataplane.udp.answers cimport answers_forward, answers_receive, bandwidth_allows
from l4lb._dataplane.udp.create cimport flow_arm, session_for_datagram
from l4lb._dataplane.udp.datagrams cimport (
    datagram_count, datagram_first_bytes, intake_bytes, intake_datagram, intake_receive,
)
from l4lb._dataplane.udp.flows cimport datagrams_dropped, flow_unbind, flow_used
from l4lb._dataplane.udp.links cimport link_drain, links_at
from l4lb._dataplane.udp.reports cimport flow_denied, flow_note_path_error, flow_note_post_errors, flow_refused
from l4lb._dataplane.udp.send_batch cimport post_add, post_add_train, post_begin, post_flush, post_full
from l4lb._dataplane.udp.waiting cimport (
    REPLAY_SLOT, waiting_lose, waiting_replay, waiting_t, waitings_end_on_socket,
)

# ---- up ----

cdef inline bint slots_match(intake_t *up, uint32_t a, uint32_t b) noexcept nogil:
    """Whether two received datagrams belong to one session."""
    return (
        not up.datagrams[b].cut
        and up.headers[a].msg_hdr.msg_namelen == up.headers[b].msg_hdr.msg_namelen
        and memcmp(&up.names[a], &up.names[b], up.headers[a].msg_hdr.msg_namelen) == 0
        and up.datagrams[a].local_length == up.datagrams[b].local_length
        and memcmp(up.datagrams[a].local, up.datagrams[b].local, up.datagrams[a].local_length) == 0
    )


cdef inline uint32_t slots_alike(listener_t *listener, intake_t *up, uint32_t first, uint32_t end) noexcept nogil:
    """How many datagrams from `first` on belong to one session. With PROXY headers each one must be parsed."""
    cdef uint32_t next_one = first + 1
    while not listener.accept.mode and next_one < end and slots_match(up, first, next_one):
        next_one += 1
    return next_one - first


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
    if s.held.source != NULL:
        shared_add(&s.held.source.bytes[0], size)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)


cdef inline int send_one(worker_t *w, session_t *s, uint32_t slot) noexcept nogil:
    """The common case: a datagram without control messages. Returns as `post_flush`.

    send(2): ECONNREFUSED, EPERM, see `flow_refused`; other errors of the network, mostly for an earlier datagram: this
    one is sent once more. EAGAIN, ENOBUFS, ENOMEM, and a second error of the network: lost.
    """
    cdef datagram_t *d = &w.udp.up.datagrams[slot]
    cdef int fd = links_at(&w.udp.links, s.flow.link).fd
    cdef bint again = True
    while send(fd, intake_bytes(&w.udp.up, slot), d.length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
        if errno == EINTR:
            continue
        if errno == ECONNREFUSED or (errno == EPERM and flow_denied(w, s)):
            return <int>slot
        if flow_note_path_error(w, s, errno) and again:
            again = False
            continue
        datagrams_dropped(w, s.listener, DROP_NOT_SENT, 1)
        return -1
    flow_sent_up(w, s, 1, d.length)
    return -1


cdef inline int send_many(worker_t *w, session_t *s, uint32_t first, uint32_t count) noexcept nogil:
    """Returns as `post_flush`."""
    cdef intake_t *up = &w.udp.up
    cdef post_t *post = &w.udp.post_up
    cdef datagram_t *d
    cdef route_t route
    cdef uint32_t slot
    cdef int refused
    post_begin(post)
    for slot in range(first, first + count):
        d = &up.datagrams[slot]
        route_up(w, s, &route, d)
        if d.segment_bytes:
            post_add_train(post, &route, intake_bytes(up, slot), d.length, d.segment_bytes, slot)
        else:
            post_add(post, &route, intake_bytes(up, slot), d.length, NULL, 0, slot)
    refused = post_flush(post)
    flow_sent_up(w, s, post.sent_datagrams, post.sent_bytes)
    flow_note_post_errors(w, s)
    return refused


cdef inline int header_write(worker_t *w, session_t *s, const proxy_send_t *wanted, uint32_t slot) noexcept nogil:
    """Write the PROXY header of a slot's datagrams to `udp.prefix`. Returns its length, or -ENOBUFS."""
    cdef datagram_t *d = &w.udp.up.datagrams[slot]
    cdef source_address_t destination
    cdef proxy_client_t client
    memset(&client, 0, sizeof(client))
    destination.length = s.flow.destination_length
    destination.port = s.flow.destination_port
    memcpy(destination.bytes, s.flow.destination, 16)
    client.source = &s.source
    client.destination = &destination
    client.instance = w.plane.instance
    client.session_id = s.id
    client.transport = PROXY_DGRAM
    if d.skip and d.tlvs_length:
        client.received.data = intake_datagram(&w.udp.up, slot) + d.tlvs_at
        client.received.length = d.tlvs_length
    return proxy_send_write(&client, wanted, w.udp.prefix, sizeof(w.udp.prefix))


cdef inline int send_with_header(worker_t *w, session_t *s, const proxy_send_t *wanted, uint32_t slot) noexcept nogil:
    """Send each datagram of a slot with the header before it (PROXY 2). Returns as `post_flush`; the rest of a train
    that was sent in part is lost, so that nothing is sent twice."""
    cdef post_t *post = &w.udp.post_up
    cdef datagram_t *d = &w.udp.up.datagrams[slot]
    cdef const uint8_t *data = intake_bytes(&w.udp.up, slot)
    cdef int length = header_write(w, s, wanted, slot)
    cdef uint32_t size = d.segment_bytes if d.segment_bytes else d.length
    cdef uint32_t at = 0
    cdef int refused = -1
    cdef route_t route
    if length < 0 or <uint32_t>length + size > DATAGRAM_PAYLOAD_MAX:
        datagrams_dropped(w, s.listener, DROP_TOO_LARGE, datagram_count(d))
        return -1
    route_up(w, s, &route, d)
    post_begin(post)
    while refused < 0:
        if post_full(post):
            refused = post_flush(post)
        size = size if size < d.length - at else d.length - at
        post_add(post, &route, data + at, size, w.udp.prefix, <uint32_t>length, slot)
        at += size
        if at >= d.length:
            break
    if post.count:
        refused = post_flush(post)
    flow_sent_up(w, s, post.sent_datagrams, post.sent_bytes - post.sent_datagrams * <uint32_t>length)
    flow_note_post_errors(w, s)
    if refused >= 0 and post.sent_datagrams:
        datagrams_dropped(w, s.listener, DROP_NOT_SENT, datagram_count(d) - post.sent_datagrams)
        return <int>slot + 1
    return refused


cdef inline uint32_t flow_allowance(session_t *s, uint32_t count) noexcept nogil:
    """How many of `count` datagrams are still this session's, by udp_requests."""
    return s.flow.requests_left if s.flow.requests_left and s.flow.requests_left < count else count


cdef inline void flow_spend(worker_t *w, session_t *s, uint32_t count) noexcept nogil:
    """After the last of udp_requests, the client's next datagram begins a new session; this one waits for its
    answers."""
    if s.flow.requests_left:
        s.flow.requests_left -= count
        if s.flow.requests_left == 0:
            flow_unbind(w, s)


cdef inline void flow_confirm_quic_ids(worker_t *w, session_t *s, uint32_t first, uint32_t count) noexcept nogil:
    """See `quic_confirm_id`."""
    cdef intake_t *up = &w.udp.up
    cdef uint32_t slot
    for slot in range(first, first + count):
        if s.flow.quic_given_length:
            quic_confirm_id(s, intake_bytes(up, slot), datagram_first_bytes(&up.datagrams[slot]))


cdef inline uint32_t flow_forward(worker_t *w, session_t *s, uint32_t first, uint32_t count) noexcept nogil:
    """Send datagrams of one session to its backend. Returns how many are dealt with: fewer when the session ended, or
    may not have the others."""
    cdef intake_t *up = &w.udp.up
    cdef datagram_t *d = &up.datagrams[first]
    cdef bandwidth_t bandwidth = session_bandwidth(s, 0)
    cdef pool_t *pool
    cdef int refused
    count = flow_allowance(s, count)
    if bandwidth_limited(&bandwidth):
        count = 1
        if not bandwidth_allows(w, s, &bandwidth, d):
            return 1
    if s.flow.quic_given_length:
        flow_confirm_quic_ids(w, s, first, count)
    pool = session_pool(w, s)
    if pool != NULL and pool.send.version:
        count = 1
        refused = send_with_header(w, s, &pool.send, first)
    elif count == 1 and not d.segment_bytes and not d.tos:
        refused = send_one(w, s, first)
    else:
        refused = send_many(w, s, first, count)
    if refused >= 0:
        flow_refused(w, s)
        return <uint32_t>refused - first
    flow_used(w, s)
    flow_spend(w, s, count)
    if s.flow.one_way and s.flow.requests_left == 0:
        session_end(w, s, CLOSE_NORMAL)
    return count


cdef inline void flow_replay(worker_t *w, session_t *s, uint32_t generation) noexcept nogil:
    """Send what its client sent while its route was not known, if the session, which was just made, has not ended. QUIC
    does not mind the order."""
    cdef waiting_t *client = <waiting_t *>w.udp.replayed
    w.udp.replayed = NULL
    while s.state == SESSION_FLOW and s.generation == generation and waiting_replay(client, &w.udp.up):
        flow_forward(w, s, REPLAY_SLOT, 1)
    waiting_lose(w, client, DROP_UNROUTED)


cdef inline void udp_event(worker_t *w, accepting_t *from_) noexcept nogil:
    """Datagrams of clients. Level-triggered: what is left after some batches is reported again next turn.

    recvmmsg(2): EAGAIN empty; EINTR, and errors of a single datagram (a bad checksum): the next event reports the rest.
    """
    cdef intake_t *up = &w.udp.up
    cdef session_t *s
    cdef uint32_t _batch, slot, generation
    cdef int got
    w.udp.denials = 0
    for _batch in range(UDP_TURN_BATCHES):
        got = intake_receive(up, from_.fd, 0, DATAGRAM_BATCH, True)
        slot = 0
        while got > 0 and slot < <uint32_t>got:
            s = session_for_datagram(w, from_, slot)
            if s == NULL:
                slot += 1
                continue
            generation = s.generation
            slot += flow_forward(w, s, slot, slots_alike(from_.listener, up, slot, <uint32_t>got))
            if unlikely(w.udp.replayed != NULL):
                flow_replay(w, s, generation)
        if got < DATAGRAM_BATCH:
            return


cdef inline void link_failed(worker_t *w, link_t *link, int error) noexcept nogil:
    """recvmmsg(2) on a connected socket: ECONNREFUSED nobody listens there; other errors of the network (paths.pxd);
    EINTR nothing."""
    cdef session_t *s = sessions_at(&w.sessions, link.session)
    if error == ECONNREFUSED:
        flow_refused(w, s)
    else:
        flow_note_path_error(w, s, error)


cdef inline void link_read(worker_t *w, link_t *link) noexcept nogil:
    """Edge-triggered: read until a call returns less than it could, since no event reports what stays; after some calls
    the others get their turn. An error does not end it: answers may be queued behind it."""
    cdef uint32_t _batch
    cdef int got
    for _batch in range(UDP_TURN_BATCHES):
        got = answers_receive(w, link)
        if got == -EAGAIN:
            return
        if got > 0:
            answers_forward(w, link, <uint32_t>got)
        else:
            link_failed(w, link, -got)
        if link.session == NO_INDEX:
            return                             # `link_give` has dealt with what is left
        if got < 0:
            continue
        if not link.unread:
            link.batch = <uint16_t>got if got > LINK_BATCH_MIN else LINK_BATCH_MIN
            return
        link.batch = 2 * link.batch if link.batch < DATAGRAM_BATCH // 2 else DATAGRAM_BATCH
    ready_push(w, sessions_at(&w.sessions, link.session))


cdef inline void link_event(worker_t *w, uint32_t index) noexcept nogil:
    """Answers of a backend, or an error instead of them."""
    cdef link_t *link = links_at(&w.udp.links, index)
    if link.fd < 0:
        return                                 # it was closed earlier in this turn
    if link.session != NO_INDEX:
        link_read(w, link)
    else:
        link_drain(w, link)


# ---- turn, timer and the end of a listening socket ----

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


cdef inline void flows_end_on_socket(worker_t *w, int fd) noexcept nogil:
    """A listening socket is about to close: its clients could not be answered any more."""
    cdef uint32_t i
    cdef session_t *s
    waitings_end_on_socket(w, fd)
    for i in range(w.sessions.block_count * SESSIONS_PER_BLOCK):
        s = sessions_at(&w.sessions, i)
        if s.state == SESSION_FLOW and s.flow.fd == fd:
            session_end(w, s, CLOSE_DRAIN)
