# Accept: from an event on a listening socket to a session whose backend is being connected. Called on the worker's
# thread.

from libc.errno cimport errno
from libc.stdint cimport uint32_t

from l4lb._dataplane.admission.access cimport access_limited, access_refused
from l4lb._dataplane.admission.admission cimport (
    ADMITTED, ADMIT_PROCESS_FULL, admit_source, admit_to_listener, admitted_t, admitted_too_fast, hold_nothing,
    refusal_closes, release,
)
from l4lb._dataplane.base.addresses cimport source_address_set
from l4lb._dataplane.base.enums cimport (
    ACCEPT_BATCH, ACCEPT_PAUSE_MS, CLOSE_DENIED, CLOSE_PROXY_HEADER_ERROR, CLOSE_RATE_LIMITED, CLOSE_RESOURCE_LIMIT,
    PROXY_REFUSED_UNTRUSTED, close_reason_t,
)
from l4lb._dataplane.base.linux cimport (
    EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, counter_add,
    published_load_u64, sockaddr, socklen_t,
)
from l4lb._dataplane.base.ranges cimport ranges_hold
from l4lb._dataplane.base.types cimport listener_t, source_address_t
from l4lb._dataplane.base.worker_types cimport accepted_client_t, accepting_t, worker_t
from l4lb._dataplane.resources.poller cimport listeners_update
from l4lb._dataplane.tcp.inboxes cimport client_transfer, wake_receivers, worker_for_next
from l4lb._dataplane.tcp.opening cimport client_end, session_start
from l4lb._dataplane.udp.links cimport spares_close_one
from l4lb._dataplane.udp.make_room cimport admit, worker_with_most_flows

cdef enum accept_result_t:
    ACCEPT_MORE = 0
    ACCEPT_EMPTY                  # the queue is empty
    ACCEPT_PAUSE                  # no file descriptor or memory for another


cdef inline void client_refuse(
    worker_t *w, accepted_client_t *client, close_reason_t reason, bint closes
) noexcept nogil:
    """Reset the client at once, or close its connection, and count it as a session that ended for `reason`."""
    counter_add(&client.listener.counters[w.index].sessions_total, 1)
    client_end(w, client, reason, not closes)


cdef inline admitted_t client_admit(worker_t *w, listener_t *listener, accepted_client_t *client) noexcept nogil:
    """To its source, if that is known here, and to all else."""
    cdef admitted_t admitted = ADMITTED
    cdef source_address_t source
    if published_load_u64(&listener.live.limits.source.counts) and not listener.accept.mode:
        source_address_set(&source, &client.address)
        admitted = admit_source(w, listener.live, &source, &client.held)
    return admit(w, listener, False, &client.held) if admitted == ADMITTED else admitted


cdef inline bint client_denied(worker_t *w, listener_t *listener, accepted_client_t *client) noexcept nogil:
    """Whether this client is refused by its address, before a byte is read: then it has been. Behind a PROXY header is
    the client's own address, see opening.pxd."""
    cdef source_address_t source
    if not access_limited(&listener.access) or listener.accept.mode:
        return False
    source_address_set(&source, &client.address)
    if not access_refused(&listener.access, &source):
        return False
    client_refuse(w, client, CLOSE_DENIED, listener.access.closes)
    return True


cdef inline bint client_trusted(listener_t *listener, accepted_client_t *client) noexcept nogil:
    """Whether this client's PROXY header is believed. For a unix socket, its file decides who may connect."""
    cdef source_address_t source
    source_address_set(&source, &client.address)
    return source.length == 0 or ranges_hold(&listener.accept.trusted, &source)


cdef inline bint client_transfer_for_room(worker_t *w, listener_t *listener, accepted_client_t *client) noexcept nogil:
    """Transfer a client for whom this worker has no place to the worker that can make room for it. False: there is
    none, or its inbox is full."""
    cdef worker_t *target = worker_with_most_flows(w)
    if target == NULL or not admit_to_listener(listener, &client.held):
        return False
    if client_transfer(w, target, client):
        return True
    release(w, client.listener, client.pool, &client.held)
    return False


cdef inline void client_describe(accepting_t *from_, accepted_client_t *client) noexcept nogil:
    cdef listener_t *listener = from_.listener
    client.local_port = from_.port
    client.listener = listener.live
    client.pool = listener.pool.live
    client.terms = listener.terms
    client.local = from_.local
    client.proxy_mode = listener.accept.mode
    client.proxy_timeout_ms = listener.accept.timeout_ms
    client.routed = listener.routes != NULL
    hold_nothing(&client.held)


cdef inline void accept_client(worker_t *w, accepting_t *from_, accepted_client_t *client) noexcept nogil:
    """A new client: refuse it at a limit, or count it and start its session on the right worker."""
    cdef listener_t *listener = from_.listener
    cdef worker_t *target = w
    cdef admitted_t admitted
    cdef close_reason_t reason
    client_describe(from_, client)
    if listener.accept.mode and not client_trusted(listener, client):
        counter_add(&listener.live.counters[w.index].proxy_refused[<int>PROXY_REFUSED_UNTRUSTED], 1)
        client_refuse(w, client, CLOSE_PROXY_HEADER_ERROR, False)
        return
    if client_denied(w, listener, client):
        return
    admitted = client_admit(w, listener, client)
    if admitted == ADMIT_PROCESS_FULL and client_transfer_for_room(w, listener, client):
        counter_add(&listener.live.counters[w.index].sessions_total, 1)
        return
    if admitted != ADMITTED:
        reason = CLOSE_RATE_LIMITED if admitted_too_fast(admitted) else CLOSE_RESOURCE_LIMIT
        client_refuse(w, client, reason, refusal_closes(listener.live, admitted))
        return
    counter_add(&listener.live.counters[w.index].sessions_total, 1)
    if w.plane.balance_workers:
        target = worker_for_next(w)
    if target == w or not client_transfer(w, target, client):
        session_start(w, client)


cdef inline accept_result_t accept_one(worker_t *w, accepting_t *from_) noexcept nogil:
    """accept4(2): EAGAIN empty; EMFILE, ENFILE, ENOBUFS, ENOMEM pause, unless a spare UDP socket can be closed;
    ECONNABORTED, EINTR, EPERM (firewall), EPROTO and the network errors of the one connection (it is gone): go on with
    the next."""
    cdef accepted_client_t client
    cdef socklen_t length = sizeof(client.address)
    client.fd = accept4(from_.fd, <sockaddr *>&client.address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if client.fd >= 0:
        accept_client(w, from_, &client)
        return ACCEPT_PAUSE if w.resources_short else ACCEPT_MORE
    if errno == EAGAIN:
        return ACCEPT_EMPTY
    if (errno == EMFILE or errno == ENFILE) and w.udp != NULL and spares_close_one(&w.udp.links):
        return ACCEPT_MORE
    if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
        return ACCEPT_PAUSE
    return ACCEPT_MORE


cdef inline void accept_pause(worker_t *w) noexcept nogil:
    """Stop watching all TCP listening sockets for a while; what waits in their queues goes on waiting. UDP listening
    sockets stay watched: existing sessions receive through them."""
    if w.accept_paused:
        return
    w.accept_paused = True
    w.paused_until_ms = <uint32_t>w.now_ms + ACCEPT_PAUSE_MS
    counter_add(&w.counters.accept_pauses, 1)
    listeners_update(w)


cdef inline void accept_resume(worker_t *w) noexcept nogil:
    w.accept_paused = False
    w.resources_short = False
    listeners_update(w)


cdef inline void accept_event(worker_t *w, accepting_t *from_) noexcept nogil:
    """Accept as many as came together lately, so that few calls find the queue empty; the next turn accepts more."""
    cdef uint32_t done = 0
    cdef accept_result_t outcome = ACCEPT_MORE
    while done < from_.batch:
        outcome = accept_one(w, from_)
        if outcome != ACCEPT_MORE:
            break
        done += 1
    if outcome == ACCEPT_PAUSE:
        accept_pause(w)
    elif outcome == ACCEPT_EMPTY:
        from_.batch = done if done else 1
    elif from_.batch < ACCEPT_BATCH:
        from_.batch += 1
    wake_receivers(w)


cdef inline void accept_all(worker_t *w, accepting_t *from_) noexcept nogil:
    """Serve what waits in the queue of a socket that is about to close. Bounded: a flood must not hold the worker."""
    cdef uint32_t left = 16384
    while left and accept_one(w, from_) == ACCEPT_MORE:
        left -= 1
    wake_receivers(w)
