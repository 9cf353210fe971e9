# Accept: from a listening socket's edge to a session whose backend is being connected. Called on the worker's thread.

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from l4lb._dataplane.addresses cimport source_address_set
from l4lb._dataplane.admission cimport (
    ADMITTED, ADMIT_PROCESS_FULL, ADMIT_RATE_LIMITED, HELD_NOTHING, HELD_PROCESS, admit_to_listener, admitted_t,
    hold_pool, hold_worker, release,
)
from l4lb._dataplane.closing cimport session_end, socket_reset
from l4lb._dataplane.enums cimport (
    ACCEPT_BATCH, ACCEPT_PAUSE_MS, CLOSE_PROXY_HEADER_ERROR, CLOSE_RATE_LIMITED, CLOSE_RESOURCE_LIMIT, CLOSE_SHUTDOWN,
    INBOX_SIZE, PROXY_REFUSED_UNTRUSTED, close_reason_t,
)
from l4lb._dataplane.links cimport spares_close_one
from l4lb._dataplane.linux cimport (
    EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, counter_add, published_load_u64,
    published_store_u64, shared_read, sockaddr, socklen_t,
)
from l4lb._dataplane.opening cimport session_open
from l4lb._dataplane.poller cimport poller_forget, poller_watch_listener, worker_wake
from l4lb._dataplane.preface cimport preface_name
from l4lb._dataplane.ranges cimport ranges_hold
from l4lb._dataplane.records cimport record_arrival
from l4lb._dataplane.room cimport admit, room_elsewhere, room_in_process
from l4lb._dataplane.sessions cimport sessions_take
from l4lb._dataplane.setup cimport session_init, session_pool
from l4lb._dataplane.types cimport listener_t, pool_t, session_t, source_address_t
from l4lb._dataplane.worker_types cimport accepting_t, arrival_t, inbox_t, worker_t

cdef enum accepted_t:
    ACCEPT_MORE = 0
    ACCEPT_EMPTY                  # the queue is empty
    ACCEPT_PAUSE                  # no file descriptor or memory for another


cdef inline void arrival_end(worker_t *w, arrival_t *arrival, close_reason_t reason) noexcept nogil:
    """A client that was counted and gets no session: recorded, reset at once and counted as ended for `reason`."""
    record_arrival(w, arrival, reason)
    socket_reset(arrival.fd)
    counter_add(&arrival.listener.counters[w.index].closed[<int>reason], 1)
    release(w, arrival.listener, arrival.pool, &arrival.held)


cdef inline void accept_refuse(worker_t *w, arrival_t *arrival, close_reason_t reason) noexcept nogil:
    """The client is reset at once, and counted as a session that ended for `reason`."""
    counter_add(&arrival.listener.counters[w.index].sessions_total, 1)
    arrival_end(w, arrival, reason)


cdef inline void session_start(worker_t *w, arrival_t *arrival) noexcept nogil:
    """A session for a client that was let in, if need be into the process here: another worker had no room for it."""
    cdef session_t *s = NULL
    cdef pool_t *pool
    hold_worker(w, &arrival.held)
    if arrival.held & HELD_PROCESS or room_in_process(w, False, &arrival.held):
        s = sessions_take(&w.sessions)
    if s == NULL:
        arrival_end(w, arrival, CLOSE_RESOURCE_LIMIT)
        return
    hold_pool(arrival.pool, &arrival.held)
    session_init(w, s, arrival)
    source_address_set(&s.source, &arrival.address)
    pool = session_pool(w, s)
    if pool != NULL and pool.send.version and preface_name(s, &arrival.local) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return
    session_open(w, s, arrival.proxy_timeout_ms, arrival.terms.deferred)


# ---- handing over ----

cdef inline worker_t *worker_for_next(worker_t *w) noexcept nogil:
    """The worker that should take the next client: this one, unless another has clearly less to do."""
    cdef worker_t *least = w
    cdef uint32_t i
    cdef int64_t count
    cdef int64_t own = shared_read(&w.assigned)
    cdef int64_t fewest = own
    for i in range(w.plane.worker_count):
        count = shared_read(&w.plane.workers[i].assigned)
        if count < fewest:
            fewest = count
            least = w.plane.workers[i]
    return least if own > fewest + fewest // 8 else w


cdef inline bint hand_over(worker_t *w, worker_t *to, arrival_t *arrival) noexcept nogil:
    """Put the client into the other worker's inbox; False when that is full. It is woken when the accepts end."""
    cdef inbox_t *inbox = &to.inboxes[w.index]
    cdef uint64_t written = inbox.written
    if written - published_load_u64(&inbox.read) >= INBOX_SIZE:
        return False
    hold_worker(to, &arrival.held)
    hold_pool(arrival.pool, &arrival.held)
    inbox.arrivals[written % INBOX_SIZE] = arrival[0]
    published_store_u64(&inbox.written, written + 1)
    counter_add(&w.counters.handed_over, 1)
    w.wake_mask |= <uint64_t>1 << (to.index % 64)
    return True


cdef inline void wake_receivers(worker_t *w) noexcept nogil:
    cdef uint32_t i
    if w.wake_mask == 0:
        return
    for i in range(w.plane.worker_count):
        if w.wake_mask >> (i % 64) & 1:
            worker_wake(w.plane.workers[i])
    w.wake_mask = 0


cdef inline void inboxes_take(worker_t *w) noexcept nogil:
    """Start the sessions that other workers accepted for this one."""
    cdef inbox_t *inbox
    cdef uint32_t i
    for i in range(w.plane.worker_count):
        inbox = &w.inboxes[i]
        while inbox.read != published_load_u64(&inbox.written):
            session_start(w, &inbox.arrivals[inbox.read % INBOX_SIZE])
            published_store_u64(&inbox.read, inbox.read + 1)


cdef inline void inboxes_drop(worker_t *w) noexcept nogil:
    """Control's thread, when all workers have stopped: clients that were handed over and never taken."""
    cdef inbox_t *inbox
    cdef arrival_t *arrival
    cdef uint32_t i
    for i in range(w.plane.worker_count):
        inbox = &w.inboxes[i]
        while inbox.read != inbox.written:
            arrival = &inbox.arrivals[inbox.read % INBOX_SIZE]
            arrival_end(w, arrival, CLOSE_SHUTDOWN)
            inbox.read += 1


# ---- accepting ----

cdef inline bint client_trusted(listener_t *listener, arrival_t *arrival) noexcept nogil:
    """Whether what this client says in a PROXY header is believed. A unix socket's file says who may connect."""
    cdef source_address_t source
    source_address_set(&source, &arrival.address)
    return source.length == 0 or ranges_hold(&listener.accept.trusted, &source)


cdef inline bint accept_elsewhere(worker_t *w, listener_t *listener, arrival_t *arrival) noexcept nogil:
    """Hand a client for whom this worker has no place to the one that can make room for it. False: there is none, or
    its inbox is full."""
    cdef worker_t *target = room_elsewhere(w)
    if target == NULL or not admit_to_listener(listener, &arrival.held):
        return False
    if hand_over(w, target, arrival):
        return True
    release(w, arrival.listener, arrival.pool, &arrival.held)
    return False


cdef inline void accept_describe(accepting_t *from_, arrival_t *arrival) noexcept nogil:
    cdef listener_t *listener = from_.listener
    arrival.local_port = from_.port
    arrival.listener = listener.live
    arrival.pool = listener.pool.live
    arrival.terms = listener.terms
    arrival.local = from_.local
    arrival.proxy_mode = listener.accept.mode
    arrival.proxy_timeout_ms = listener.accept.timeout_ms
    arrival.held = HELD_NOTHING


cdef inline void accepted(worker_t *w, accepting_t *from_, arrival_t *arrival) noexcept nogil:
    """A new client: refuse it at a limit, or count it and start its session on the right worker."""
    cdef listener_t *listener = from_.listener
    cdef worker_t *target = w
    cdef admitted_t admitted
    accept_describe(from_, arrival)
    if listener.accept.mode and not client_trusted(listener, arrival):
        counter_add(&listener.live.counters[w.index].proxy_refused[<int>PROXY_REFUSED_UNTRUSTED], 1)
        accept_refuse(w, arrival, CLOSE_PROXY_HEADER_ERROR)
        return
    admitted = admit(w, listener, False, &arrival.held)
    if admitted == ADMIT_PROCESS_FULL and accept_elsewhere(w, listener, arrival):
        counter_add(&listener.live.counters[w.index].sessions_total, 1)
        return
    if admitted != ADMITTED:
        accept_refuse(w, arrival, CLOSE_RATE_LIMITED if admitted == ADMIT_RATE_LIMITED else CLOSE_RESOURCE_LIMIT)
        return
    counter_add(&listener.live.counters[w.index].sessions_total, 1)
    if w.plane.balance_workers:
        target = worker_for_next(w)
    if target == w or not hand_over(w, target, arrival):
        session_start(w, arrival)


cdef inline accepted_t accept_one(worker_t *w, accepting_t *from_) noexcept nogil:
    """accept4(2): EAGAIN empty; EMFILE, ENFILE, ENOBUFS, ENOMEM pause, unless a spare of UDP can be given up;
    ECONNABORTED, EINTR, EPERM (firewall), EPROTO and the network errors of the one connection (it is gone): go on with
    the next."""
    cdef arrival_t arrival
    cdef socklen_t length = sizeof(arrival.address)
    arrival.fd = accept4(from_.fd, <sockaddr *>&arrival.address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if arrival.fd >= 0:
        accepted(w, from_, &arrival)
        return ACCEPT_PAUSE if w.resources_short else ACCEPT_MORE
    if errno == EAGAIN:
        return ACCEPT_EMPTY
    if (errno == EMFILE or errno == ENFILE) and w.udp != NULL and spares_close_one(&w.udp.links):
        return ACCEPT_MORE
    if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
        return ACCEPT_PAUSE
    return ACCEPT_MORE


cdef inline void accept_pause(worker_t *w) noexcept nogil:
    """Stop watching all listening sockets of TCP for a while; what waits in their queues keeps waiting. Those of UDP go
    on: the clients of sessions that are there come by them."""
    cdef uint32_t i
    if w.accept_paused:
        return
    w.accept_paused = True
    w.paused_until_ms = <uint32_t>w.now_ms + ACCEPT_PAUSE_MS
    counter_add(&w.counters.accept_pauses, 1)
    for i in range(w.accepting_count):
        if not w.accepting[i].datagrams:
            poller_forget(w, w.accepting[i].fd)


cdef inline void accept_resume(worker_t *w) noexcept nogil:
    cdef uint32_t i
    w.accept_paused = False
    w.resources_short = False
    for i in range(w.accepting_count):
        if not w.accepting[i].datagrams:
            poller_watch_listener(w, &w.accepting[i], i)


cdef inline void accept_event(worker_t *w, accepting_t *from_) noexcept nogil:
    """Accept as many as lately came at once, so that few calls find the queue empty; more come with the next turn."""
    cdef uint32_t done = 0
    cdef accepted_t outcome = ACCEPT_MORE
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
