# Events: what an edge of one of its sockets, its timer or its turn in the ready list means to a TCP session in each of
# its states: one function for each, named in worker/states.pxd. Called on the worker's thread.

from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t

from l4lb._dataplane.base.enums cimport (
    CLOSE_CLIENT_ABORT, CLOSE_CONNECT_FAILED, CLOSE_CONNECT_TIMEOUT, CLOSE_HALF_CLOSE_TIMEOUT, CLOSE_IDLE_TIMEOUT,
    CLOSE_MAX_DURATION, CLOSE_QUEUE_TIMEOUT, FAILURE_OTHER, FAILURE_RESET, FAILURE_TIMEOUT, HOOK_LATE,
    SESSION_ACK_HELD, SESSION_HEADER_HELD, SESSION_THROTTLED, SIDE_CLIENT, side_t,
)
from l4lb._dataplane.base.linux cimport AF_INET, EPOLLERR, EPOLLHUP
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.verdicts cimport failure_reported
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.session.closing cimport session_end
from l4lb._dataplane.tcp.connect cimport attempt_error
from l4lb._dataplane.tcp.ending cimport session_ending_progress
from l4lb._dataplane.tcp.opening cimport session_event_reading, session_hooked, session_timeout_reading
from l4lb._dataplane.tcp.progress cimport (
    deadline_passed, session_arm, session_is_ending, session_rearm, session_stalled,
)
from l4lb._dataplane.tcp.starttls cimport (
    STARTTLS_AGREED, STARTTLS_ENDED, STARTTLS_LOST, STARTTLS_WAITS, starttls_answer_t, starttls_done, starttls_hear,
)
from l4lb._dataplane.tcp.transitions cimport (
    client_is_gone, session_connected, session_expect_urgent, session_mark, session_pump, session_relay, session_retry,
    session_stop_holding, session_try_again, session_watch,
)

# ---- edges ----

cdef inline bint client_left(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    """An edge of the client before there is a backend. A client that is gone ends its session, which frees its places;
    one that only sent its FIN goes on: bytes and FIN are relayed later."""
    if not client_is_gone(s, events):
        return False
    session_end(w, s, CLOSE_CLIENT_ABORT)
    return True


cdef inline void edge_reading(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    if side == SIDE_CLIENT and not client_left(w, s, events):
        session_event_reading(w, s, events)


cdef inline void edge_waiting(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    """ASKING, QUEUED, PAUSING. An edge of the backend belongs to an attempt that is over."""
    if side == SIDE_CLIENT and not client_left(w, s, events):
        session_mark(s, SIDE_CLIENT, events)


cdef inline void edge_connecting(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    cdef int error
    if side == SIDE_CLIENT:
        edge_waiting(w, s, side, events)
        return
    error = attempt_error(s) if events & (EPOLLERR | EPOLLHUP) else 0
    if error:
        session_retry(w, s, failure_reported(error, AF_INET), CLOSE_CONNECT_FAILED)
    else:
        session_connected(w, s, events)


cdef inline void edge_negotiating(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    """Connected, and asked for TLS: the backend agrees, or another is asked."""
    cdef starttls_answer_t answer
    if side == SIDE_CLIENT:
        edge_waiting(w, s, side, events)
        return
    answer = starttls_hear(s)
    if answer == STARTTLS_AGREED:
        starttls_done(w, s)
        s.awaited = 0
        session_relay(w, s, events)
    elif answer == STARTTLS_LOST:
        session_retry(w, s, failure_reported(errno, AF_INET), CLOSE_CONNECT_FAILED)
    elif answer != STARTTLS_WAITS:
        session_retry(w, s, FAILURE_RESET if answer == STARTTLS_ENDED else FAILURE_OTHER, CLOSE_CONNECT_FAILED)


cdef inline void edge_relaying(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    session_mark(s, side, events)
    session_pump(w, s)


cdef inline void edge_ending(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    """RESETTING, CLOSING."""
    session_mark(s, side, events)
    session_ending_progress(w, s)


# ---- its timer: a deadline has passed, or has moved since and is armed again ----

cdef inline bint deadline_moved(worker_t *w, session_t *s) noexcept nogil:
    if deadline_passed(w, s.state_deadline_ms):
        return False
    session_arm(w, s, s.state_deadline_ms)
    return True


cdef inline void timeout_reading(worker_t *w, session_t *s) noexcept nogil:
    if not deadline_moved(w, s):
        session_timeout_reading(w, s)


cdef inline void timeout_asking(worker_t *w, session_t *s) noexcept nogil:
    if not deadline_moved(w, s):
        session_hooked(w, s, HOOK_LATE, 0)


cdef inline void timeout_queued(worker_t *w, session_t *s) noexcept nogil:
    if not deadline_moved(w, s):
        session_end(w, s, CLOSE_QUEUE_TIMEOUT)


cdef inline void timeout_pausing(worker_t *w, session_t *s) noexcept nogil:
    if not deadline_moved(w, s):
        session_try_again(w, s)


cdef inline void timeout_connecting(worker_t *w, session_t *s) noexcept nogil:
    """CONNECTING, NEGOTIATING. An attempt that takes its time: from the first timeout on the client is watched."""
    if deadline_passed(w, s.state_deadline_ms):
        session_retry(w, s, FAILURE_TIMEOUT, CLOSE_CONNECT_TIMEOUT)
    elif session_watch(w, s):
        session_arm(w, s, s.state_deadline_ms)


cdef inline void timeout_relaying(worker_t *w, session_t *s) noexcept nogil:
    if s.expires_ms and deadline_passed(w, s.expires_ms):
        session_end(w, s, CLOSE_MAX_DURATION)
    elif s.flags & (SESSION_THROTTLED | SESSION_HEADER_HELD | SESSION_ACK_HELD):
        if s.flags & SESSION_THROTTLED:
            s.active_ms = <uint32_t>w.now_ms       # the wait is ours
        s.flags &= <uint16_t>~SESSION_THROTTLED
        session_stop_holding(s)
        session_rearm(w, s)
        session_pump(w, s)
    elif not session_stalled(w, s):
        session_expect_urgent(s)
        session_rearm(w, s)
    elif s.half_close_ms and session_is_ending(s) and deadline_passed(w, s.active_ms + s.half_close_ms):
        session_end(w, s, CLOSE_HALF_CLOSE_TIMEOUT)
    else:
        session_end(w, s, CLOSE_IDLE_TIMEOUT)
