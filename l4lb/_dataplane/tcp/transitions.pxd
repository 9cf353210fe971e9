# TCP: the transitions of a session's life from the choice of a backend on. Called by events.pxd, opening.pxd and
# worker/loop.pxd, on the worker's thread. The state diagram is at session_state_t in base/enums.pxd.
#
# Every function that may end the session is the last thing its caller does with it.

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.admission.limits cimport bandwidth_t, bandwidth_wait_ms, session_bandwidth
from l4lb._dataplane.balancing.queue cimport queue_enter, queue_leave
from l4lb._dataplane.base.enums cimport (
    ACK_HOLD_MS, CLIENT_FIRST_MAX, CLOSE_CONNECT_FAILED, CLOSE_NORMAL, CLOSE_NO_BACKEND, CLOSE_QUEUE_FULL,
    CLOSE_RESOURCE_LIMIT, HALF_EOF, HALF_FIN_SENT, HALF_READABLE, HALF_READ_ON, HALF_SOURCE_FIN, HALF_WRITABLE,
    NO_INDEX, SESSION_ACK_HELD, SESSION_ANSWERED, SESSION_CLIENT_WANTS_OUT, SESSION_CLIENT_WATCHED, SESSION_ENDING,
    SESSION_HEADER_HELD, SESSION_HEADER_SENT, SESSION_NEGOTIATING, SESSION_PAUSING, SESSION_RELAYING, SESSION_SPOKEN,
    SESSION_THROTTLED, SESSION_URGENT_INLINE, SIDE_BACKEND, SIDE_CLIENT, close_reason_t, connect_failure_t, side_t,
)
from l4lb._dataplane.base.linux cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, IPPROTO_TCP, MSG_PEEK, SOL_SOCKET, SO_OOBINLINE,
    TCP_QUICKACK, counter_add, recv, setsockopt, shared_read, sockaddr, unlikely,
)
from l4lb._dataplane.base.parts cimport session_list_t
from l4lb._dataplane.base.types cimport backend_t, half_t, pool_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.poller cimport poller_watch, poller_watch_again
from l4lb._dataplane.resources.ready cimport ready_push
from l4lb._dataplane.resources.sessions cimport sessions_at
from l4lb._dataplane.resources.timers cimport timers_arm, timers_disarm
from l4lb._dataplane.session.backend_socket cimport attempt_failure
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.session.half cimport half_pending
from l4lb._dataplane.session.latency cimport answer_watch, measure_connect
from l4lb._dataplane.session.records cimport histogram_add
from l4lb._dataplane.session.setup cimport session_pool
from l4lb._dataplane.tcp.connect cimport (
    ATTEMPT_CONNECTED, ATTEMPT_FAILED, ATTEMPT_MISFIT, ATTEMPT_NO_RESOURCES, ATTEMPT_NO_SOURCE, attempt_begin,
    attempt_failed, attempt_misfit, attempt_short, attempt_t, session_pick, session_pick_named,
    session_was_short,
)
from l4lb._dataplane.tcp.ending cimport session_close, session_reset
from l4lb._dataplane.tcp.preface cimport AWAIT_STARTTLS
from l4lb._dataplane.tcp.progress cimport session_arm, session_is_ending, session_rearm
from l4lb._dataplane.tcp.relay cimport (
    PUMP_AGAIN, PUMP_NO_MEMORY, PUMP_SINK_LOST, PUMP_SOURCE_LOST, PUMP_THROTTLED, backend_inline, pump_down, pump_t,
    pump_up,
)
from l4lb._dataplane.tcp.starttls cimport starttls_ask

# ---- who speaks first ----

cdef inline void session_note_first_speaker(worker_t *w, session_t *s) noexcept nogil:
    """The first bytes of a session predict who speaks first in the next ones on this listener."""
    cdef uint64_t *client_first = &s.listener.counters[w.index].client_first
    s.flags |= SESSION_SPOKEN
    if s.up.bytes and client_first[0] < CLIENT_FIRST_MAX:
        client_first[0] += 1
    elif not s.up.bytes and client_first[0] > 0:
        client_first[0] -= 1


cdef inline void session_expect_urgent(session_t *s) noexcept nogil:
    """Its backend speaks first, or goes on after the first answer, or the session lives for long: urgent data may come
    from the backend, see relay.pxd."""
    if not s.flags & SESSION_URGENT_INLINE and not s.down.flags & HALF_EOF:
        backend_inline(s)


cdef inline void session_stop_holding(session_t *s) noexcept nogil:
    """Neither side has spoken for a while: complete the backend's handshake, in case the backend is to speak first. A
    header that was held is sent when the caller pumps."""
    cdef int on = 1
    cdef bint acknowledge = s.flags & SESSION_ACK_HELD and not half_pending(&s.up)
    s.flags &= <uint16_t>~(SESSION_ACK_HELD | SESSION_HEADER_HELD)
    if acknowledge and s.up.bytes == 0 and not s.flags & SESSION_HEADER_SENT:
        session_expect_urgent(s)                    # before it can send anything
        setsockopt(s.backend_fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on))
    if s.down.bytes:
        session_expect_urgent(s)


# ---- relaying ----

cdef inline void session_throttle(worker_t *w, session_t *s, side_t source) noexcept nogil:
    """A half has used up its bandwidth: come back when there is some again."""
    cdef bandwidth_t bandwidth = session_bandwidth(s, <int>source)
    s.flags |= SESSION_THROTTLED
    session_arm(w, s, <uint32_t>w.now_ms + bandwidth_wait_ms(&bandwidth, w.now_ns))


cdef inline bint session_handle(worker_t *w, session_t *s, pump_t outcome, side_t source) noexcept nogil:
    """Act on the outcome of one half's pump. False when the session is gone or being reset."""
    if outcome == PUMP_AGAIN:
        ready_push(w, s)
    elif outcome == PUMP_THROTTLED:
        session_throttle(w, s, source)
    elif outcome == PUMP_NO_MEMORY:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return False
    elif outcome == PUMP_SOURCE_LOST:
        session_reset(w, s, source)
        return False
    elif outcome == PUMP_SINK_LOST:
        session_reset(w, s, SIDE_BACKEND if source == SIDE_CLIENT else SIDE_CLIENT)
        return False
    return True


cdef inline void session_want_client_out(worker_t *w, session_t *s) noexcept nogil:
    """The client did not take all: from now on watch it for EPOLLOUT too (once per session)."""
    s.flags |= SESSION_CLIENT_WANTS_OUT
    if poller_watch_again(w, s, SIDE_CLIENT, s.client_fd) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)


cdef inline void session_settle(worker_t *w, session_t *s) noexcept nogil:
    """After both halves had their turn: end the session, half-close it, or go on."""
    if not s.flags & SESSION_SPOKEN and s.up.bytes | s.down.bytes:
        session_note_first_speaker(w, s)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)
    if s.up.flags & s.down.flags & HALF_FIN_SENT:
        session_end(w, s, CLOSE_NORMAL)
        return
    if (s.up.flags | s.down.flags) & HALF_FIN_SENT and not s.half_close:
        session_close(w, s)
        return
    if not s.flags & SESSION_ENDING and session_is_ending(s):
        s.flags |= SESSION_ENDING
        s.active_ms = <uint32_t>w.now_ms
        session_rearm(w, s)
    if unlikely(not s.down.flags & HALF_WRITABLE and not s.flags & SESSION_CLIENT_WANTS_OUT):
        session_want_client_out(w, s)


cdef inline void session_pump(worker_t *w, session_t *s) noexcept nogil:
    """Give both halves of a relaying session a turn."""
    if session_handle(w, s, pump_up(w, s), SIDE_CLIENT):
        if session_handle(w, s, pump_down(w, s), SIDE_BACKEND):
            session_settle(w, s)


# ---- edges ----

cdef inline void session_mark_urgent(session_t *s, side_t side) noexcept nogil:
    """An urgent byte is among those that have come, see relay.pxd: read past it."""
    cdef int on = 1
    cdef half_t *reads = &s.up if side == SIDE_CLIENT else &s.down
    if side == SIDE_BACKEND:
        backend_inline(s)
    else:
        setsockopt(s.client_fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on))      # only a unix client's lacks it
    reads.flags |= HALF_READ_ON | HALF_READABLE


cdef inline void session_mark(session_t *s, side_t side, uint32_t events) noexcept nogil:
    """Remember an edge on the two halves that this side belongs to."""
    cdef half_t *reads = &s.up if side == SIDE_CLIENT else &s.down
    cdef half_t *writes = &s.down if side == SIDE_CLIENT else &s.up
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        reads.flags |= HALF_READABLE
    if events & EPOLLERR:
        reads.flags |= HALF_READ_ON            # the last bytes, then the read that distinguishes a reset from a FIN
    if events & EPOLLRDHUP:                    # of both
        reads.flags |= HALF_SOURCE_FIN
    if unlikely(events & EPOLLPRI):
        session_mark_urgent(s, side)
    if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        writes.flags |= HALF_WRITABLE


cdef inline bint client_is_gone(session_t *s, uint32_t events) noexcept nogil:
    """Whether a client without a backend can neither receive an answer nor has left anything to be delivered.

    EPOLLERR: it was reset. EPOLLHUP alone: a unix client has closed, perhaps after it sent something, as a TCP client
    does with a FIN. EPOLLRDHUP alone is a FIN: it may still read.

    recv(2) with MSG_PEEK: 0 nothing more; EAGAIN cannot be after a hang-up; errors lost.
    """
    cdef uint8_t byte
    if events & EPOLLERR:
        return True
    if not events & EPOLLHUP or half_pending(&s.up):
        return False
    return recv(s.client_fd, &byte, 1, MSG_PEEK) <= 0


# ---- connecting ----

cdef inline bint session_watch(worker_t *w, session_t *s) noexcept nogil:
    """Watch the client from now on; epoll reports at once what it sent already, and whether it is gone. False when the
    session had to end."""
    if s.flags & SESSION_CLIENT_WATCHED:
        return True
    s.flags |= SESSION_CLIENT_WATCHED
    if poller_watch(w, s, SIDE_CLIENT, s.client_fd, 0) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return False
    return True


cdef inline void session_relay(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    """Start to relay. `events` is the edge that reported it, which may bring the backend's first bytes with it.

    A client that was not watched before is watched only from here on.
    """
    s.state = SESSION_RELAYING
    s.connected_ns = w.now_ns
    s.active_ms = <uint32_t>w.now_ms
    counter_add(&s.backend.counters[w.index].sessions_total, 1)
    s.up.flags |= HALF_WRITABLE                # what the client's edges reported meanwhile holds
    s.down.flags = HALF_WRITABLE
    session_mark(s, SIDE_BACKEND, events)
    histogram_add(&w.counters.connect_time, w.now_ns - s.attempt_started_ns)
    measure_connect(w, s)
    if not session_watch(w, s):
        return
    timers_disarm(&w.timers, &w.sessions, s)   # of the attempt: it would wake this worker once more
    if s.flags & (SESSION_ACK_HELD | SESSION_HEADER_HELD):
        session_arm(w, s, <uint32_t>w.now_ms + ACK_HOLD_MS)
    session_rearm(w, s)
    if (s.up.flags | s.down.flags) & (HALF_READABLE | HALF_EOF) or (
        half_pending(&s.up) and not s.flags & SESSION_HEADER_HELD
    ):
        session_pump(w, s)


cdef inline void session_connected(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    """`events` is the edge that reported it."""
    if unlikely(s.awaited & AWAIT_STARTTLS):
        s.state = SESSION_NEGOTIATING
        starttls_ask(s)
        session_arm(w, s, s.state_deadline_ms)
        return
    session_relay(w, s, events)


cdef inline void session_wait(worker_t *w, session_t *s, pool_t *pool) noexcept nogil:
    """Every backend of every tier is at max_sessions: queue, and watch the client meanwhile, or end."""
    if pool.first.usable_count == 0:
        session_end(w, s, CLOSE_CONNECT_FAILED if s.attempts else CLOSE_NO_BACKEND)
        return
    if not queue_enter(w, s, pool.queue_size):
        session_end(w, s, CLOSE_QUEUE_FULL)
        return
    s.state_deadline_ms = <uint32_t>w.now_ms + pool.queue_timeout_ms
    timers_arm(&w.timers, &w.sessions, s, w.now_ms + pool.queue_timeout_ms)
    session_watch(w, s)


cdef inline void session_pause(worker_t *w, session_t *s, pool_t *pool) noexcept nogil:
    """Every usable backend was tried: give them time before they are tried again, and watch the client."""
    s.state = SESSION_PAUSING
    s.state_deadline_ms = <uint32_t>w.now_ms + pool.retry_pause_ms
    timers_arm(&w.timers, &w.sessions, s, w.now_ms + pool.retry_pause_ms)
    session_watch(w, s)


cdef inline bint session_try(worker_t *w, session_t *s, pool_t *pool, backend_t *backend) noexcept nogil:
    """Connect to a reserved backend. False when that failed at once and another should be tried."""
    cdef attempt_t attempt = attempt_begin(w, s, pool, backend)
    cdef int error = errno                     # of the call that has failed, if one has
    cdef int family = (<sockaddr *>&backend.address).sa_family
    if attempt == ATTEMPT_CONNECTED:
        session_connected(w, s, 0)
    elif attempt == ATTEMPT_NO_RESOURCES or attempt == ATTEMPT_NO_SOURCE:
        attempt_short(w, s, attempt, error)
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
    elif attempt == ATTEMPT_FAILED or attempt == ATTEMPT_MISFIT:
        if attempt == ATTEMPT_MISFIT and attempt_misfit(w, s) == 0:
            return False
        if attempt == ATTEMPT_FAILED and attempt_failed(w, s, attempt_failure(w, error, family)) == 0:
            return False
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
    return True


cdef inline void session_connect(worker_t *w, session_t *s) noexcept nogil:
    """Try backends until one is pending or connected, or the attempts are used up; queue when all are full."""
    cdef pool_t *pool = session_pool(w, s)
    cdef backend_t *backend
    while pool != NULL and s.attempts < pool.connect_attempts:
        # Sessions that wait already go first, unless this one has waited its turn before.
        backend = NULL if s.tried == NULL and shared_read(&s.pool.waiting) else session_pick(w, s, pool)
        if backend == NULL and session_was_short(s):
            session_end(w, s, CLOSE_RESOURCE_LIMIT)
            return
        if backend == NULL:
            if pool.retry_pause_ms and s.tried != NULL and s.tried.count:
                session_pause(w, s, pool)
            else:
                session_wait(w, s, pool)
            return
        if session_try(w, s, pool, backend):
            return
    session_end(w, s, CLOSE_CONNECT_FAILED if s.attempts else CLOSE_NO_BACKEND)


cdef inline void session_connect_to(worker_t *w, session_t *s, uint32_t backend_id) noexcept nogil:
    """Try that backend first, when it is usable and has a place that nobody waits for."""
    cdef pool_t *pool = session_pool(w, s)
    cdef backend_t *backend = NULL
    if pool != NULL and not shared_read(&s.pool.waiting):
        backend = session_pick_named(w, s, pool, backend_id)
    if backend == NULL or not session_try(w, s, pool, backend):
        session_connect(w, s)


cdef inline void session_try_again(worker_t *w, session_t *s) noexcept nogil:
    """The pause is over: all backends count as untried."""
    s.tried.count = 0
    session_connect(w, s)


cdef inline void queue_serve(worker_t *w, pool_t *pool) noexcept nogil:
    """Give free places to the sessions that wait for `pool` on this worker, the longest wait first."""
    cdef session_list_t *queue = &pool.live.queues[w.index]
    cdef session_t *s
    cdef backend_t *backend
    while queue.head != NO_INDEX:
        s = sessions_at(&w.sessions, queue.head)
        backend = session_pick(w, s, pool)
        if backend == NULL:
            return
        queue_leave(w, s)
        if not session_try(w, s, pool, backend):
            session_connect(w, s)


cdef inline void queues_serve(worker_t *w) noexcept nogil:
    """After a place has freed somewhere, or a new snapshot was adopted."""
    cdef uint32_t i
    w.queue_poked = False
    if w.snapshot == NULL:
        return
    for i in range(w.snapshot.pool_count):
        queue_serve(w, w.snapshot.pools[i])


cdef inline void session_retry(
    worker_t *w, session_t *s, connect_failure_t failure, close_reason_t reason
) noexcept nogil:
    """The pending attempt failed: on to the next backend, or end with `reason` when this was the last."""
    cdef pool_t *pool = session_pool(w, s)
    if attempt_failed(w, s, failure) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
    elif pool == NULL or s.attempts >= pool.connect_attempts:
        session_end(w, s, reason)
    else:
        session_connect(w, s)
