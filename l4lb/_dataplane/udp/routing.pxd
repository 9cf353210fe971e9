# UDP routing: to which pool of a routed listener a client without a session goes. A backend of any of its pools that
# has the client's QUIC connection already keeps it; otherwise its address decides, or the ClientHello in its QUIC
# Initial, for which it may have to wait. Called on the worker's thread by create.pxd.

from libc.stdint cimport uint32_t

from l4lb._dataplane.admission.admission cimport release
from l4lb._dataplane.balancing.routes cimport ROUTE_LATER, route_facts_t, route_target, routes_find
from l4lb._dataplane.base.enums cimport DROP_RESOURCES, HASH_KEY_QUIC_CID
from l4lb._dataplane.base.hashing cimport random_next
from l4lb._dataplane.base.route_types cimport route_t, routes_t
from l4lb._dataplane.base.types cimport listener_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.tls.client_hello cimport (
    HELLO_NEED_MORE, HELLO_NOT_TLS, client_hello_parse_message, client_hello_t, hello_result_t,
)
from l4lb._dataplane.tls.quic_initial cimport hello_stream_t
from l4lb._dataplane.tls.quic_keys cimport quic_hello_read
from l4lb._dataplane.udp.connect cimport new_flow_resume, new_flow_t
from l4lb._dataplane.udp.datagrams cimport datagram_count
from l4lb._dataplane.udp.flows cimport datagrams_dropped
from l4lb._dataplane.udp.waiting cimport (
    WAITING_DATAGRAMS, WAITING_MAX, hello_stream_open, waiting_add, waiting_has_room, waiting_lose,
    waiting_store, waiting_take, waitings_expire, waitings_open, waitings_t,
)


# ---- connections that there are ----

cdef inline bint new_flow_known_by(worker_t *w, new_flow_t *n, uint32_t slot) noexcept nogil:
    """Whether a backend of the pool in that slot has the client's connection; it is reserved then."""
    n.pool = w.snapshot.pools_by_slot[slot]
    if n.pool.hash_key == HASH_KEY_QUIC_CID:
        n.resumed = new_flow_resume(w, n, 0)
    return n.resumed != NULL


cdef inline bint new_flow_known(worker_t *w, new_flow_t *n, const routes_t *routes) noexcept nogil:
    cdef const route_t *route
    cdef uint32_t i, j
    if new_flow_known_by(w, n, n.from_.listener.pool.live.slot):
        return True
    for i in range(routes.count):
        route = &routes.entries[i]
        for j in range(route.target_count):
            if new_flow_known_by(w, n, route.targets[j].slot):
                return True
    return False


# ---- the hello ----

cdef inline hello_result_t new_flow_read(worker_t *w, new_flow_t *n, client_hello_t *hello) noexcept nogil:
    """What is known of its ClientHello with this datagram, or train of datagrams. One that is no Initial says nothing
    of a client that waits already. At most one packet of each datagram is decrypted."""
    cdef waitings_t *waitings = waitings_open(w)
    cdef hello_stream_t *stream
    cdef uint32_t size = n.datagram.segment_bytes if n.datagram.segment_bytes else n.datagram.length
    cdef uint32_t at = 0
    cdef uint32_t left = WAITING_DATAGRAMS
    cdef bint is_initial = n.waiting != NULL
    if waitings == NULL:
        return HELLO_NOT_TLS
    if n.waiting == NULL and not hello_stream_open(&waitings.hello):
        return HELLO_NOT_TLS
    stream = &n.waiting.hello if n.waiting != NULL else &waitings.hello
    while at < n.datagram.length and left:
        size = size if size < n.datagram.length - at else n.datagram.length - at
        is_initial |= quic_hello_read(&waitings.reader, stream, n.payload + at, size)
        at += size
        left -= 1
    return client_hello_parse_message(hello, stream.bytes, stream.whole) if is_initial else HELLO_NOT_TLS


cdef inline void new_flow_wait(worker_t *w, new_flow_t *n) noexcept nogil:
    """Keep the datagram until its client's hello is whole."""
    cdef listener_t *listener = n.from_.listener
    if n.waiting == NULL:
        waitings_expire(w, WAITING_MAX - 1)
        n.waiting = waiting_add(w, listener.live, &n.key, n.hash)
    if n.waiting == NULL:
        datagrams_dropped(w, listener.live, DROP_RESOURCES, datagram_count(n.datagram))
        release(w, listener.live, NULL, &n.held)
        return
    n.waiting.held = n.held
    if not waiting_store(n.waiting, &w.udp.up, n.slot):
        datagrams_dropped(w, listener.live, DROP_RESOURCES, datagram_count(n.datagram))
        waiting_take(w, n.waiting)
        waiting_lose(w, n.waiting, DROP_RESOURCES)


cdef inline bint new_flow_route(worker_t *w, new_flow_t *n) noexcept nogil:
    """Find the pool of a client that was admitted. False: it waits, or was dropped and counted. True: what it sent
    before, if it has waited, is still in the lists of those who wait."""
    cdef listener_t *listener = n.from_.listener
    cdef const routes_t *routes = listener.routes
    cdef client_hello_t hello
    cdef route_facts_t facts
    cdef int found
    if n.resumed != NULL:
        return True                            # its pool is known with its backend
    n.pool = listener.pool
    if routes == NULL or new_flow_known(w, n, routes):
        return True
    facts.source = &n.source
    facts.first = n.payload
    facts.first_length = 0
    facts.said = &hello
    facts.hello = HELLO_NEED_MORE
    facts.complete = False
    found = routes_find(routes, &facts)
    if found == ROUTE_LATER:
        facts.hello = new_flow_read(w, n, &hello)
        facts.complete = facts.hello == HELLO_NEED_MORE and not waiting_has_room(w, n.waiting, n.datagram)
        found = routes_find(routes, &facts)
    if found == ROUTE_LATER:
        new_flow_wait(w, n)
        return False
    n.pool = listener.pool
    if found >= 0:
        n.pool = w.snapshot.pools_by_slot[
            route_target(&routes.entries[found], &n.source, random_next(&w.random))
        ]
    return True
