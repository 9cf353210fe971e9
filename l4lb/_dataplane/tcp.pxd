# TCP: the transitions of a session's life from the choice of a backend on. Called by events.pxd, which brings them
# about, by opening.pxd and worker.pxd, on the worker's thread. The state diagram is at session_state_t in enums.pxd.
#
# Every function that may end the session is the last thing its caller does with it.

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t

from l4lb._dataplane.closing cimport session_end, socket_has_unsent
from l4lb._dataplane.connect cimport (
    ATTEMPT_CONNECTED, ATTEMPT_FAILED, ATTEMPT_MISFIT, ATTEMPT_NO_RESOURCES, ATTEMPT_NO_SOURCE, answer_watch,
    attempt_begin, attempt_failed, attempt_failure, attempt_misfit, attempt_short, attempt_t, measure_connect,
    session_pick, session_pool, session_was_short,
)
from l4lb._dataplane.enums cimport (
    ACK_HOLD_MS, CLIENT_FIRST_MAX, CLOSE_BACKEND_ABORT, CLOSE_CLIENT_ABORT, CLOSE_CONNECT_FAILED, CLOSE_NORMAL,
    CLOSE_NO_BACKEND, CLOSE_QUEUE_FULL, CLOSE_RESOURCE_LIMIT, HALF_EOF, HALF_FIN_SENT, HALF_READABLE, HALF_READ_ON,
    HALF_SOURCE_FIN, HALF_WRITABLE, NO_INDEX, RESET_POLL_MS, SESSION_ACK_HELD, SESSION_ANSWERED, SESSION_BACKEND_RESET,
    SESSION_CLIENT_RESET, SESSION_CLIENT_WANTS_OUT, SESSION_CLIENT_WATCHED, SESSION_HEADER_HELD, SESSION_HEADER_SENT,
    SESSION_RELAYING, SESSION_RESETTING, SESSION_SPOKEN, SESSION_THROTTLED, SIDE_BACKEND, SIDE_CLIENT, TIMER_IDLE,
    close_reason_t, connect_failure_t, side_t,
)
from l4lb._dataplane.limits cimport bandwidth_wait_ms
from l4lb._dataplane.linux cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, TCP_QUICKACK, counter_add, setsockopt, shared_read,
    sockaddr, unlikely,
)
from l4lb._dataplane.notices cimport backend_failed
from l4lb._dataplane.poller cimport poller_watch, poller_watch_again
from l4lb._dataplane.queue cimport queue_enter, queue_leave
from l4lb._dataplane.ready cimport ready_push
from l4lb._dataplane.records cimport histogram_add
from l4lb._dataplane.relay cimport (
    PUMP_AGAIN, PUMP_NO_MEMORY, PUMP_SINK_LOST, PUMP_SOURCE_LOST, PUMP_THROTTLED, half_drop, half_pending, half_pump,
    pump_t, wire_t,
)
from l4lb._dataplane.sessions cimport sessions_at
from l4lb._dataplane.timers cimport timers_arm
from l4lb._dataplane.types cimport backend_t, half_t, pool_t, queue_t, session_t, worker_t

cdef enum:
    HOUR_MS = 3600000             # a session without any deadline still looks now and then


# ---- timers ----

cdef inline uint32_t earlier_ms(uint32_t a, uint32_t b) noexcept nogil:
    return a if <int32_t>(a - b) < 0 else b


cdef inline void session_arm(worker_t *w, session_t *s, uint32_t due_ms) noexcept nogil:
    """Fire no later than `due_ms` (the worker's clock, low 32 bits). An earlier timer is left: it will look again."""
    cdef int32_t ahead_ms = <int32_t>(due_ms - <uint32_t>w.now_ms)
    cdef uint64_t due = w.now_ms + (<uint64_t>ahead_ms if ahead_ms > 0 else 0)
    if s.timer.slot != TIMER_IDLE and <int32_t>(s.timer.due_tick - <uint32_t>(due // 8)) <= 0:
        return
    timers_arm(&w.timers, &w.sessions, s, due)


cdef inline bint session_half_closed(session_t *s) noexcept nogil:
    return (s.up.flags | s.down.flags) & HALF_FIN_SENT


cdef inline void session_rearm(worker_t *w, session_t *s) noexcept nogil:
    """Arm for the earliest of the deadlines that hold for a relaying session."""
    cdef uint32_t due = <uint32_t>w.now_ms + HOUR_MS
    if s.idle_ms:
        due = earlier_ms(due, s.active_ms + s.idle_ms)
    if s.half_close_ms and session_half_closed(s):
        due = earlier_ms(due, s.state_deadline_ms)
    if s.expires_ms:
        due = earlier_ms(due, s.expires_ms)
    session_arm(w, s, due)


cdef inline bint deadline_passed(worker_t *w, uint32_t deadline_ms) noexcept nogil:
    return <int32_t>(<uint32_t>w.now_ms - deadline_ms) >= 0


# ---- who speaks first ----

cdef inline void session_learn(worker_t *w, session_t *s) noexcept nogil:
    """The first bytes of a session tell what to expect of the next ones on this listener."""
    cdef uint64_t *client_first = &s.listener.counters[w.index].client_first
    s.flags |= SESSION_SPOKEN
    if s.up.bytes and client_first[0] < CLIENT_FIRST_MAX:
        client_first[0] += 1
    elif not s.up.bytes and client_first[0] > 0:
        client_first[0] -= 1


cdef inline void session_release(session_t *s) noexcept nogil:
    """Nobody has spoken for a while: complete the backend's handshake, in case it is the one to begin. A header that
    was held does so by itself when the caller pumps."""
    cdef int on = 1
    cdef bint acknowledge = s.flags & SESSION_ACK_HELD and not half_pending(&s.up)
    s.flags &= <uint16_t>~(SESSION_ACK_HELD | SESSION_HEADER_HELD)
    if acknowledge and s.up.bytes == 0 and not s.flags & SESSION_HEADER_SENT:
        setsockopt(s.backend_fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on))


# ---- relaying ----

cdef inline pump_t pump_up(worker_t *w, session_t *s) noexcept nogil:
    cdef wire_t wire
    wire.session = s
    wire.half = &s.up
    wire.direction = 0
    wire.source_fd = s.client_fd
    wire.sink_fd = s.backend_fd
    return half_pump(w, &wire)


cdef inline pump_t pump_down(worker_t *w, session_t *s) noexcept nogil:
    cdef wire_t wire
    wire.session = s
    wire.half = &s.down
    wire.direction = 1
    wire.source_fd = s.backend_fd
    wire.sink_fd = s.client_fd
    return half_pump(w, &wire)


cdef inline void session_reset_progress(worker_t *w, session_t *s) noexcept nogil:
    """RESETTING: bring the lost side's last bytes to the other, then end. The other lost too: end at once."""
    cdef half_t *carrying = &s.up if s.flags & SESSION_CLIENT_RESET else &s.down
    cdef int sink_fd = s.backend_fd if s.flags & SESSION_CLIENT_RESET else s.client_fd
    cdef pump_t outcome = pump_up(w, s) if s.flags & SESSION_CLIENT_RESET else pump_down(w, s)
    if outcome == PUMP_AGAIN:
        ready_push(w, s)
        return
    if outcome == PUMP_SOURCE_LOST:
        carrying.flags |= HALF_EOF
    if outcome == PUMP_SINK_LOST or outcome == PUMP_NO_MEMORY:
        session_end(w, s, <close_reason_t>s.close_reason)
    elif outcome == PUMP_THROTTLED or half_pending(carrying) or socket_has_unsent(sink_fd):
        session_arm(w, s, earlier_ms(<uint32_t>w.now_ms + RESET_POLL_MS, s.state_deadline_ms))
    else:
        session_end(w, s, <close_reason_t>s.close_reason)


cdef inline void session_reset(worker_t *w, session_t *s, side_t lost) noexcept nogil:
    """One side was reset. What it sent before still goes to the other side, and the reset after it."""
    cdef half_t *carrying = &s.up if lost == SIDE_CLIENT else &s.down
    half_drop(w, &s.down if lost == SIDE_CLIENT else &s.up)
    if s.state == SESSION_RESETTING:
        session_end(w, s, <close_reason_t>s.close_reason)
        return
    if lost == SIDE_BACKEND and s.down.bytes == 0:
        counter_add(&s.backend.counters[w.index].early_resets, 1)
        backend_failed(w, session_pool(w, s), s.backend)
    s.state = SESSION_RESETTING
    s.flags |= SESSION_CLIENT_RESET if lost == SIDE_CLIENT else SESSION_BACKEND_RESET
    s.close_reason = CLOSE_CLIENT_ABORT if lost == SIDE_CLIENT else CLOSE_BACKEND_ABORT
    s.state_deadline_ms = <uint32_t>w.now_ms + s.half_close_ms
    if not carrying.flags & HALF_EOF:
        carrying.flags |= HALF_READABLE
    session_reset_progress(w, s)


cdef inline void session_throttle(worker_t *w, session_t *s, side_t source) noexcept nogil:
    """A half has used up its bandwidth: come back when there is some again."""
    cdef half_t *h = &s.up if source == SIDE_CLIENT else &s.down
    cdef uint32_t wait_ms = bandwidth_wait_ms(&s.listener.limits, &h.paid_until_ns, <int>source, w.now_ns)
    s.flags |= SESSION_THROTTLED
    session_arm(w, s, <uint32_t>w.now_ms + wait_ms)


cdef inline bint session_handle(worker_t *w, session_t *s, pump_t outcome, side_t source) noexcept nogil:
    """What one half's pump means for the session. False when the session is gone or being reset."""
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
    """The client did not take all: from now on its edges for writing are asked for too (once a session)."""
    s.flags |= SESSION_CLIENT_WANTS_OUT
    if poller_watch_again(w, s, SIDE_CLIENT, s.client_fd) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)


cdef inline void session_settle(worker_t *w, session_t *s, uint8_t fins_before) noexcept nogil:
    """After both halves had their turn: ended, half-closed, or on with it."""
    if not s.flags & SESSION_SPOKEN and s.up.bytes | s.down.bytes:
        session_learn(w, s)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)
    if s.up.flags & s.down.flags & HALF_FIN_SENT:
        session_end(w, s, CLOSE_NORMAL)
        return
    if session_half_closed(s) and not fins_before:
        s.state_deadline_ms = <uint32_t>w.now_ms + s.half_close_ms
        session_rearm(w, s)
    if unlikely(not s.down.flags & HALF_WRITABLE and not s.flags & SESSION_CLIENT_WANTS_OUT):
        session_want_client_out(w, s)


cdef inline void session_pump(worker_t *w, session_t *s) noexcept nogil:
    """Give both halves of a relaying session a turn."""
    cdef uint8_t fins_before = session_half_closed(s)
    if session_handle(w, s, pump_up(w, s), SIDE_CLIENT):
        if session_handle(w, s, pump_down(w, s), SIDE_BACKEND):
            session_settle(w, s, fins_before)


# ---- connecting ----

cdef inline void session_mark(session_t *s, side_t side, uint32_t events) noexcept nogil:
    """Remember an edge on the two halves that this side belongs to."""
    cdef half_t *reads = &s.up if side == SIDE_CLIENT else &s.down
    cdef half_t *writes = &s.down if side == SIDE_CLIENT else &s.up
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        reads.flags |= HALF_READABLE
    if events & EPOLLERR:
        reads.flags |= HALF_READ_ON            # the last bytes first, then the read that tells a reset from a FIN
    elif events & EPOLLRDHUP:
        reads.flags |= HALF_SOURCE_FIN
    if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        writes.flags |= HALF_WRITABLE


cdef inline void session_connected(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    """Start to relay. `events` are the edge that told, which may bring the backend's first bytes with it.

    A client that was not waited for before is watched only from here on: what it sent already is reported at once.
    """
    s.state = SESSION_RELAYING
    s.connected_ns = w.now_ns
    s.active_ms = <uint32_t>w.now_ms
    counter_add(&s.backend.counters[w.index].sessions_total, 1)
    s.up.flags |= HALF_WRITABLE                # what the client's edges have said meanwhile holds
    s.down.flags = HALF_WRITABLE
    session_mark(s, SIDE_BACKEND, events)
    histogram_add(&w.counters.connect_time, w.now_ns - s.attempt_started_ns)
    measure_connect(w, s)
    if not s.flags & SESSION_CLIENT_WATCHED and poller_watch(w, s, SIDE_CLIENT, s.client_fd, 0) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)
        return
    s.flags |= SESSION_CLIENT_WATCHED
    if s.flags & (SESSION_ACK_HELD | SESSION_HEADER_HELD):
        session_arm(w, s, <uint32_t>w.now_ms + ACK_HOLD_MS)
    session_rearm(w, s)
    if (s.up.flags | s.down.flags) & (HALF_READABLE | HALF_EOF) or (
        half_pending(&s.up) and not s.flags & SESSION_HEADER_HELD
    ):
        session_pump(w, s)


cdef inline void session_wait(worker_t *w, session_t *s, pool_t *pool) noexcept nogil:
    """Every backend of every tier is at max_sessions: queue, and watch the client meanwhile, or end."""
    if pool.first.usable_count == 0:
        session_end(w, s, CLOSE_CONNECT_FAILED if s.attempts else CLOSE_NO_BACKEND)
        return
    if not queue_enter(w, s, pool.queue_size):
        session_end(w, s, CLOSE_QUEUE_FULL)
        return
    if s.up.flags & (HALF_EOF | HALF_SOURCE_FIN):      # see `session_event_queued`
        session_end(w, s, CLOSE_CLIENT_ABORT)
        return
    s.state_deadline_ms = <uint32_t>w.now_ms + pool.queue_timeout_ms
    timers_arm(&w.timers, &w.sessions, s, w.now_ms + pool.queue_timeout_ms)
    if s.flags & SESSION_CLIENT_WATCHED:
        return
    s.flags |= SESSION_CLIENT_WATCHED
    if poller_watch(w, s, SIDE_CLIENT, s.client_fd, 0) < 0:
        session_end(w, s, CLOSE_RESOURCE_LIMIT)


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
        # Who waits already goes first, unless this session has waited its turn before.
        backend = NULL if s.tried == NULL and shared_read(&s.pool.waiting) else session_pick(w, s, pool)
        if backend == NULL and session_was_short(s):
            session_end(w, s, CLOSE_RESOURCE_LIMIT)
            return
        if backend == NULL:
            session_wait(w, s, pool)
            return
        if session_try(w, s, pool, backend):
            return
    session_end(w, s, CLOSE_CONNECT_FAILED if s.attempts else CLOSE_NO_BACKEND)


cdef inline void queue_serve(worker_t *w, pool_t *pool) noexcept nogil:
    """Give free places to the sessions that wait for `pool` on this worker, the longest wait first."""
    cdef queue_t *queue = &pool.live.queues[w.index]
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


cdef inline void session_event_queued(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    """A client that hangs up while it waits frees its place, whether or not it sent something before."""
    session_mark(s, SIDE_CLIENT, events)
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        session_end(w, s, CLOSE_CLIENT_ABORT)


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
