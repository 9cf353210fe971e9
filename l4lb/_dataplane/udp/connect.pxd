# UDP connect: a backend for a datagram without a session, and a link to it. Called on the worker's thread by
# create.pxd.

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.balancing.failure_notices cimport backend_failed
from l4lb._dataplane.balancing.load cimport backend_release
from l4lb._dataplane.balancing.pick cimport client_hash, connection_hash, pool_resume, selection_hashes
from l4lb._dataplane.base.addresses cimport source_address_set
from l4lb._dataplane.base.enums cimport (
    DROP_NO_BACKEND, DROP_RESOURCES, FAILURE_RESOURCES, HASH_KEY_DESTINATION, HASH_KEY_QUIC_CID, HASH_KEY_RANDOM,
    HASH_KEY_SESSION, SHORTAGE_PORTS, connect_failure_t, shortage_t,
)
from l4lb._dataplane.base.hashing cimport random_next, xxh64
from l4lb._dataplane.base.linux cimport (
    AF_INET, AF_INET6, IPPROTO_UDP, counter_add, getsockname, sockaddr, sockaddr_in6, sockaddr_storage, socklen_t,
)
from l4lb._dataplane.base.types cimport backend_t, held_t, listener_t, pick_t, pool_t, source_address_t
from l4lb._dataplane.base.udp_types cimport datagram_t, link_t, quic_header_t
from l4lb._dataplane.base.verdicts cimport shortage_is_everywhere, shortage_of
from l4lb._dataplane.base.worker_types cimport accepting_t, worker_t
from l4lb._dataplane.session.backend_socket cimport (
    attempt_failure, backend_connect_to, client_bind, client_fits, source_bind,
)
from l4lb._dataplane.udp.datagrams cimport datagram_count, datagram_first_bytes
from l4lb._dataplane.udp.flows cimport datagrams_dropped, flow_key_t
from l4lb._dataplane.udp.links cimport link_close, link_open, link_reuse, link_watch
from l4lb._dataplane.udp.make_room cimport room_make_for_link
from l4lb._dataplane.udp.paths cimport refused_lately, refused_note
from l4lb._dataplane.udp.picking cimport flow_pick
from l4lb._dataplane.balancing.quic cimport quic_header_read, quic_ids_find
from l4lb._dataplane.udp.waiting cimport waiting_t

cdef struct new_flow_t:          # a datagram without a session, on its way to become the first of one
    accepting_t *from_
    datagram_t *datagram
    const uint8_t *payload
    flow_key_t key
    uint32_t hash
    source_address_t peer         # who sent it
    source_address_t source       # the client
    source_address_t destination  # where the client meant to go; length 0: not known yet
    quic_header_t quic            # with hash_key quic_cid
    held_t held
    pool_t *pool
    waiting_t *waiting            # what it has sent before, while its route was not known; NULL: nothing
    uint32_t slot                 # of the datagram, in the intake
    backend_t *resumed            # it has the client's connection already; reserved until it is taken for `backend`
    backend_t *backend
    link_t *link


cdef inline void new_flow_find_destination(new_flow_t *n) noexcept nogil:
    """For a client whose PROXY header did not name it: the datagram's own, or what getsockname(2) says, which does not
    fail on an open socket."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    if n.destination.length:
        return
    if n.from_.local.length:
        n.destination = n.from_.local
        return
    memset(&address, 0, sizeof(address))
    getsockname(n.from_.fd, <sockaddr *>&address, &length)
    if n.datagram.local_length:
        address.ss_family = AF_INET6
        (<sockaddr_in6 *>&address).sin6_port = n.from_.port
        memcpy(&(<sockaddr_in6 *>&address).sin6_addr, n.datagram.local, 16)
    source_address_set(&n.destination, &address)


cdef inline uint64_t new_flow_hash(worker_t *w, new_flow_t *n) noexcept nogil:
    if not selection_hashes(n.pool.selection):
        return 0
    if n.pool.hash_key == HASH_KEY_RANDOM:
        return random_next(&w.random)
    if n.pool.hash_key == HASH_KEY_QUIC_CID and n.quic.long_form and n.quic.destination.length:
        return connection_hash(n.pool, n.quic.destination.bytes, n.quic.destination.length)
    if n.pool.hash_key == HASH_KEY_DESTINATION or n.pool.hash_key == HASH_KEY_SESSION:
        new_flow_find_destination(n)
    return client_hash(n.pool, &n.source, &n.destination, IPPROTO_UDP)


cdef inline int backend_family(backend_t *backend) noexcept nogil:
    return (<sockaddr *>&backend.address).sa_family


cdef inline backend_t *new_flow_resume(worker_t *w, new_flow_t *n, uint32_t but_not) noexcept nogil:
    """The reserved backend that has the client's QUIC connection already; NULL when there is none, or it is the one
    with the id `but_not`."""
    cdef pick_t pick
    cdef uint32_t backend_id
    if n.pool.hash_key != HASH_KEY_QUIC_CID:
        return NULL
    if not quic_header_read(&n.quic, n.payload, datagram_first_bytes(n.datagram)):
        return NULL
    backend_id = quic_ids_find(&n.pool.live.quic_ids, &n.quic)
    if backend_id == 0 or backend_id == but_not or refused_lately(w, backend_id):
        return NULL
    pick.pool = n.pool
    return pool_resume(&pick, backend_id)


cdef inline uint64_t link_tag(pool_t *pool, backend_t *backend, listener_t *listener, uint16_t port) noexcept nogil:
    """Equal for links that can replace each other. 0: the link belongs to one client."""
    cdef uint64_t tag = <uint64_t>backend.live.id << 2 | <uint64_t>listener.one_way << 1 | <uint64_t>listener.trains
    if pool.transparent:
        return 0
    tag = xxh64(<const uint8_t *>&pool.source, pool.source_length, tag)
    tag = xxh64(<const uint8_t *>&backend.address, backend.address_length, tag)
    return (tag + (port if backend.same_port else 0)) | 1


cdef inline link_t *link_connect(worker_t *w, new_flow_t *n, uint64_t tag) noexcept nogil:
    """socket(2), bind(2), connect(2): see base/verdicts.pxd; epoll_ctl(2): ENOMEM, ENOSPC. On failure NULL, with
    errno."""
    cdef link_t *link = link_open(w, backend_family(n.backend), n.from_.listener.trains)
    if link == NULL:
        return NULL
    link.tag = tag
    if n.pool.source_length and source_bind(link.fd, n.pool) < 0:
        link_close(&w.udp.links, link)
        return NULL
    if n.pool.transparent and client_bind(link.fd, &n.source) < 0:
        link_close(&w.udp.links, link)
        return NULL
    if backend_connect_to(link.fd, n.backend, n.from_.port) < 0 or link_watch(w, link) < 0:
        link_close(&w.udp.links, link)
        return NULL
    return link


cdef inline link_t *new_flow_connect(worker_t *w, new_flow_t *n, uint64_t tag) noexcept nogil:
    """A new link to the backend, for which room is made when ports or file descriptors run out; NULL with errno."""
    cdef link_t *link = link_connect(w, n, tag)
    cdef uint32_t _try
    for _try in range(2):                      # closing a spare may not help: then a session
        if link == NULL and room_make_for_link(w, n.from_.listener.live, errno):
            link = link_connect(w, n, tag)
    return link


cdef inline bint new_flow_connect_failed(worker_t *w, new_flow_t *n, int error) noexcept nogil:
    """No link to the reserved backend: count it. Returns whether another backend may do. A backend that refused or
    cannot be reached is blamed; it is passed over for a while, as is one that could not be asked, while another is
    left."""
    cdef connect_failure_t failure = attempt_failure(w, error, AF_INET)
    cdef shortage_t shortage = shortage_of(error, AF_INET)
    counter_add(&n.backend.live.counters[w.index].connect_failures[<int>failure], 1)
    backend_release(n.backend.live)
    if shortage == SHORTAGE_PORTS or shortage_is_everywhere(shortage):
        return False
    if failure != FAILURE_RESOURCES:
        backend_failed(w, n.pool, n.backend.live)
    refused_note(w, n.backend.live.id)
    return True


cdef inline bint new_flow_link(worker_t *w, new_flow_t *n) noexcept nogil:
    """Find a backend and a link to it. False when that fails; the datagram is counted then."""
    cdef uint32_t _attempt
    cdef uint64_t tag, hash
    if n.resumed == NULL:
        n.resumed = new_flow_resume(w, n, 0)
    hash = new_flow_hash(w, n)
    for _attempt in range(n.pool.connect_attempts):
        n.backend = n.resumed if n.resumed != NULL else flow_pick(w, n.pool, hash)
        n.resumed = NULL
        if n.backend == NULL:
            datagrams_dropped(w, n.from_.listener.live, DROP_NO_BACKEND, datagram_count(n.datagram))
            return False
        tag = link_tag(n.pool, n.backend, n.from_.listener, n.from_.port)
        n.link = link_reuse(w, tag) if tag else NULL
        if n.link == NULL and n.pool.transparent and not client_fits(&n.source, backend_family(n.backend)):
            counter_add(&n.backend.live.counters[w.index].source_misfits, 1)
            backend_release(n.backend.live)
            refused_note(w, n.backend.live.id)
            continue
        if n.link == NULL:
            n.link = new_flow_connect(w, n, tag)
        if n.link != NULL:
            return True
        if not new_flow_connect_failed(w, n, errno):
            break
    datagrams_dropped(w, n.from_.listener.live, DROP_RESOURCES, datagram_count(n.datagram))
    return False
