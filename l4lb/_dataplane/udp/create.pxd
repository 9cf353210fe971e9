# Create: from a datagram that belongs to no session to one that does. Limits, a backend, a link to it, and only then
# the session, so that a failure leaves nothing behind. Called on the worker's thread by events.pxd.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.admission.access cimport access_refused
from l4lb._dataplane.admission.admission cimport (
    ADMITTED, admit_source, admitted_t, admitted_too_fast, hold_nothing, hold_pool, hold_worker, release,
)
from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.base.addresses cimport source_address_set
from l4lb._dataplane.base.enums cimport (
    CLOSE_RESOURCE_LIMIT, DROP_DENIED, DROP_DRAINING, DROP_MAX_SESSIONS, DROP_PROXY_HEADER, DROP_RATE_LIMITED,
    DROP_RESOURCES, DROP_TOO_LARGE, DROP_UNROUTED, HASH_KEY_QUIC_CID, LINK_BATCH_MIN, PROXY_BAD_SIGNATURE,
    PROXY_COMPLETE, PROXY_REFUSED_UNTRUSTED, SELECT_PEAK_EWMA, SESSION_FLOW, SESSION_MEASURED, drop_reason_t,
    proxy_result_t,
)
from l4lb._dataplane.base.linux cimport counter_add
from l4lb._dataplane.base.ranges cimport ranges_hold
from l4lb._dataplane.base.types cimport listener_t, session_t
from l4lb._dataplane.base.udp_types cimport datagram_t, flow_t, intake_t
from l4lb._dataplane.base.worker_types cimport accepted_client_t, accepting_t, worker_t
from l4lb._dataplane.proxy_protocol.header cimport proxy_datagram_parse, source_address_unmap
from l4lb._dataplane.proxy_protocol.types cimport PROXY_INET, PROXY_INET6, proxy_header_t, proxy_mode_t
from l4lb._dataplane.resources.sessions cimport sessions_take
from l4lb._dataplane.resources.timers cimport timers_arm
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.session.setup cimport session_init, session_pool
from l4lb._dataplane.udp.connect cimport new_flow_find_destination, new_flow_link, new_flow_resume, new_flow_t
from l4lb._dataplane.udp.datagrams cimport datagram_count, intake_bytes, intake_datagram
from l4lb._dataplane.udp.flows cimport (
    datagrams_dropped, flow_bind, flow_find, flow_hash, flow_key_add_client, flow_key_fill, flow_list_push, flow_take,
    flow_unbind,
)
from l4lb._dataplane.udp.links cimport link_close
from l4lb._dataplane.udp.make_room cimport admit
from l4lb._dataplane.udp.picking cimport flow_has_other_backend
from l4lb._dataplane.udp.routing cimport new_flow_route
from l4lb._dataplane.udp.waiting cimport waiting_find, waiting_lose, waiting_take


cdef inline void flow_arm(worker_t *w, session_t *s) noexcept nogil:
    """Check again when it may have been idle for long enough, or has lived for as long as it may."""
    cdef uint64_t due_ms = w.now_ms + 3600000
    cdef int32_t ahead_ms
    if s.idle_ms:
        due_ms = w.now_ms + s.idle_ms - (<uint32_t>w.now_ms - s.active_ms)
    if s.expires_ms:
        ahead_ms = <int32_t>(s.expires_ms - <uint32_t>w.now_ms)
        if <int64_t>(w.now_ms + ahead_ms) < <int64_t>due_ms:
            due_ms = w.now_ms + ahead_ms
    timers_arm(&w.timers, &w.sessions, s, due_ms)


cdef inline bint address_needs_interface(const uint8_t *address) noexcept nogil:
    """Link-local or multicast: an answer must be sent by the interface that the datagram came in by."""
    return address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)


cdef inline void flow_fill(worker_t *w, session_t *s, new_flow_t *n) noexcept nogil:
    cdef flow_t *flow = s.flow
    cdef listener_t *listener = n.from_.listener
    flow.fd = n.from_.fd
    flow.wide = n.from_.wide
    flow.scope_id = n.peer.scope_id
    if address_needs_interface(n.datagram.local):
        flow.interface = n.datagram.interface
    flow.local_length = n.datagram.local_length
    memcpy(flow.local, n.datagram.local, n.datagram.local_length)
    flow.peer_length = n.peer.length
    flow.peer_port = n.peer.port
    flow.named = n.key.named
    memcpy(flow.peer, n.peer.bytes, n.peer.length)
    if n.pool.send.version:
        new_flow_find_destination(n)
        flow.destination_length = n.destination.length
        flow.destination_port = n.destination.port
        memcpy(flow.destination, n.destination.bytes, n.destination.length)
    flow.quic = n.pool.hash_key == HASH_KEY_QUIC_CID
    flow.requests_left = listener.requests
    flow.responses = listener.responses
    flow.one_way = listener.one_way
    flow.link = n.link.index
    n.link.session = s.index
    n.link.backend_id = s.backend.id
    n.link.one_way = listener.one_way
    n.link.batch = LINK_BATCH_MIN


cdef inline session_t *flow_session_take(worker_t *w, new_flow_t *n) noexcept nogil:
    """The session; NULL when memory is short."""
    cdef accepted_client_t client
    cdef flow_t *flow = flow_take(&w.udp.flows)
    cdef session_t *s = sessions_take(&w.sessions) if flow != NULL else NULL
    if s == NULL:
        if flow != NULL:
            flow.next_free = w.udp.flows.free
            w.udp.flows.free = flow
        return NULL
    memset(&client, 0, sizeof(client))
    client.fd = -1
    client.local_port = n.from_.port
    client.listener = n.from_.listener.live
    client.pool = n.pool.live
    client.terms = n.from_.listener.terms
    client.held = n.held
    session_init(w, s, &client)
    hold_pool(s.pool, &s.held)
    hold_worker(w, &s.held)
    s.flow = flow
    s.source = n.source
    s.backend = n.backend.live
    s.attempts = 1
    s.attempt_started_ns = s.connected_ns = w.now_ns
    s.asked_ns = 0
    if n.pool.selection == SELECT_PEAK_EWMA:
        s.flags |= SESSION_MEASURED
    s.state = SESSION_FLOW
    return s


cdef inline bint new_flow_admit(worker_t *w, new_flow_t *n, uint32_t datagrams) noexcept nogil:
    """Take its places, or those that it holds since its first datagram. False: dropped and counted."""
    cdef listener_t *listener = n.from_.listener
    cdef admitted_t admitted
    cdef drop_reason_t reason
    hold_nothing(&n.held)
    n.waiting = NULL
    if listener.routes != NULL and w.udp.waiting_count:
        n.waiting = waiting_find(w, &n.key, n.hash)
    if n.waiting != NULL:
        n.held = n.waiting.held
        hold_nothing(&n.waiting.held)
        return True
    admitted = admit_source(w, listener.live, &n.source, &n.held)
    if admitted == ADMITTED:
        admitted = admit(w, listener, True, &n.held)
    if admitted == ADMITTED:
        return True
    reason = DROP_RATE_LIMITED if admitted_too_fast(admitted) else DROP_MAX_SESSIONS
    datagrams_dropped(w, listener.live, reason, datagrams)
    release(w, listener.live, NULL, &n.held)
    return False


cdef inline void new_flow_drop(worker_t *w, new_flow_t *n) noexcept nogil:
    """It gets no session; its datagram is counted."""
    release(w, n.from_.listener.live, NULL, &n.held)
    if n.waiting != NULL:
        waiting_lose(w, n.waiting, DROP_UNROUTED)


cdef inline session_t *flow_create(worker_t *w, new_flow_t *n) noexcept nogil:
    """A new session for a datagram that belongs to none. NULL: dropped and counted."""
    cdef listener_t *listener = n.from_.listener
    cdef uint32_t datagrams = datagram_count(n.datagram)
    cdef session_t *s
    if listener.draining:
        datagrams_dropped(w, listener.live, DROP_DRAINING, datagrams)
        return NULL
    if access_refused(&listener.access, &n.source):
        datagrams_dropped(w, listener.live, DROP_DENIED, datagrams)
        return NULL
    if not new_flow_admit(w, n, datagrams) or not new_flow_route(w, n):
        return NULL
    if n.waiting != NULL:
        waiting_take(w, n.waiting)
    if not new_flow_link(w, n):
        new_flow_drop(w, n)
        return NULL
    s = flow_session_take(w, n)
    if s == NULL:
        datagrams_dropped(w, listener.live, DROP_RESOURCES, datagrams)
        link_close(&w.udp.links, n.link)
        backend_release(n.backend.live)
        new_flow_drop(w, n)
        return NULL
    flow_fill(w, s, n)
    flow_list_push(w, s)
    counter_add(&w.flow_count, 1)
    counter_add(&listener.live.counters[w.index].sessions_total, 1)
    counter_add(&s.backend.counters[w.index].sessions_total, 1)
    flow_arm(w, s)
    if flow_bind(w, s, n.hash) < 0:
        datagrams_dropped(w, listener.live, DROP_RESOURCES, datagrams)
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        if n.waiting != NULL:
            waiting_lose(w, n.waiting, DROP_UNROUTED)
        return NULL
    w.udp.replayed = n.waiting
    return s


cdef inline void header_refused(worker_t *w, listener_t *listener, uint32_t reason) noexcept nogil:
    """`reason` is a `proxy_refusal_t`."""
    counter_add(&listener.live.counters[w.index].proxy_refused[reason], 1)
    datagrams_dropped(w, listener.live, DROP_PROXY_HEADER, 1)


cdef inline bint header_take(worker_t *w, new_flow_t *n, const uint8_t *data) noexcept nogil:
    """Read the PROXY header that each datagram of this listener begins with (PROXY 2, the revision of 2026): it names
    the client. False: refused and counted."""
    cdef listener_t *listener = n.from_.listener
    cdef datagram_t *d = n.datagram
    cdef proxy_header_t header
    cdef proxy_result_t result
    d.length += d.skip                         # it was read before, for a session that its backend has ended
    d.skip = 0
    if not ranges_hold(&listener.accept.trusted, &n.peer):
        header_refused(w, listener, PROXY_REFUSED_UNTRUSTED)
        return False
    result = proxy_datagram_parse(&header, data, d.length, <proxy_mode_t>listener.accept.mode)
    if result != PROXY_COMPLETE:
        header_refused(w, listener, <uint32_t>result - PROXY_BAD_SIGNATURE)
        return False
    d.skip = header.length
    d.length -= header.length
    d.tlvs_at = header.tlvs.offset
    d.tlvs_length = header.tlvs.length
    if header.family == PROXY_INET or header.family == PROXY_INET6:
        n.source = header.source
        n.destination = header.destination
        source_address_unmap(&n.source)
        source_address_unmap(&n.destination)
        flow_key_add_client(&n.key, &n.source)
    return True


cdef inline bint flow_address_reused(worker_t *w, session_t *s, new_flow_t *n) noexcept nogil:
    """Whether a datagram from the address of `s` comes from a client that has a QUIC connection with another backend: a
    NAT gave it an address that another client had before. That backend is reserved then."""
    n.pool = session_pool(w, s)
    if n.pool != NULL:
        n.resumed = new_flow_resume(w, n, s.backend.id)
    return n.resumed != NULL


cdef inline bint flow_fail_over(worker_t *w, session_t *s) noexcept nogil:
    """Whether the client of a session whose backend cannot be reached goes elsewhere from now on; the session may still
    get answers."""
    s.flow.unreachable = False
    if not flow_has_other_backend(w, s):
        return False
    flow_unbind(w, s)
    return True


cdef inline session_t *session_for_datagram(worker_t *w, accepting_t *from_, uint32_t slot) noexcept nogil:
    """The session of a datagram in the intake, if need be a new one. NULL: dropped and counted, or a mere copy."""
    cdef intake_t *up = &w.udp.up
    cdef new_flow_t n
    cdef session_t *s
    n.from_ = from_
    n.datagram = &up.datagrams[slot]
    n.slot = slot
    if n.datagram.cut:
        datagrams_dropped(w, from_.listener.live, DROP_TOO_LARGE, 1)
        return NULL
    if n.datagram.to_many and not from_.first:
        return NULL                            # another worker received it too
    source_address_set(&n.peer, &up.names[slot])
    n.source = n.peer
    n.destination.length = 0
    flow_key_fill(&n.key, &n.peer, from_.fd, n.datagram.local, n.datagram.local_length)
    if from_.listener.accept.mode and not header_take(w, &n, intake_datagram(up, slot)):
        return NULL
    n.payload = intake_bytes(up, slot)
    n.hash = flow_hash(&w.udp.flows, &n.key)
    n.resumed = NULL
    s = flow_find(w, &n.key, n.hash)
    if s != NULL and s.flow.unreachable and flow_fail_over(w, s):
        s = NULL
    if s != NULL and not (s.flow.quic and flow_address_reused(w, s, &n)):
        return s
    if s != NULL:
        flow_unbind(w, s)                      # the client that had the address may still get answers
    s = flow_create(w, &n)
    if n.resumed != NULL:
        backend_release(n.resumed.live)
    return s
