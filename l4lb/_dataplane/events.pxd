# Events: what happens to a session (an edge of one of its sockets, its timer, its turn in the ready list), and which of
# the transitions in tcp.pxd and ending.pxd that means in its state. Called by worker.pxd, on the worker's thread.

from libc.stdint cimport uint16_t, uint32_t

from l4lb._dataplane.closing cimport session_end
from l4lb._dataplane.connect cimport attempt_error
from l4lb._dataplane.ending cimport session_ending_progress, session_timeout_ending
from l4lb._dataplane.enums cimport (
    CLOSE_CLIENT_ABORT, CLOSE_CONNECT_FAILED, CLOSE_CONNECT_TIMEOUT, CLOSE_HALF_CLOSE_TIMEOUT, CLOSE_IDLE_TIMEOUT,
    CLOSE_MAX_DURATION, CLOSE_QUEUE_TIMEOUT, FAILURE_TIMEOUT, SESSION_ACK_HELD, SESSION_CLOSING, SESSION_CONNECTING,
    SESSION_HEADER_HELD, SESSION_PAUSING, SESSION_QUEUED, SESSION_READING, SESSION_RELAYING, SESSION_RESETTING,
    SESSION_THROTTLED, SIDE_CLIENT, side_t,
)
from l4lb._dataplane.linux cimport AF_INET, EPOLLERR, EPOLLHUP
from l4lb._dataplane.opening cimport session_event_reading, session_timeout_reading
from l4lb._dataplane.progress cimport deadline_passed, session_arm, session_is_ending, session_rearm, session_stalled
from l4lb._dataplane.tcp cimport (
    client_is_gone, session_connected, session_mark, session_outlives, session_pump, session_release, session_retry,
    session_try_again, session_watch,
)
from l4lb._dataplane.types cimport session_t, worker_t
from l4lb._dataplane.verdicts cimport failure_reported

# ---- edges ----

cdef inline void session_event_connecting(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    cdef int error = attempt_error(s) if events & (EPOLLERR | EPOLLHUP) else 0
    if error:
        session_retry(w, s, failure_reported(error, AF_INET), CLOSE_CONNECT_FAILED)
    else:
        session_connected(w, s, events)


cdef inline void session_event_client(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    """Before there is a backend. A client that is gone frees its places; one that only sent its FIN goes on: bytes and
    FIN are relayed later."""
    if client_is_gone(s, events):
        session_end(w, s, CLOSE_CLIENT_ABORT)
    elif s.state == SESSION_READING:
        session_event_reading(w, s, events)
    else:
        session_mark(s, SIDE_CLIENT, events)


cdef inline void session_event(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    if s.state == SESSION_RELAYING:
        session_mark(s, side, events)
        session_pump(w, s)
    elif s.state == SESSION_RESETTING or s.state == SESSION_CLOSING:
        session_mark(s, side, events)
        session_ending_progress(w, s)
    elif side == SIDE_CLIENT:
        session_event_client(w, s, events)
    elif s.state == SESSION_CONNECTING:
        session_event_connecting(w, s, events)


# ---- its timer ----

cdef inline void session_timeout_relaying(worker_t *w, session_t *s) noexcept nogil:
    if s.expires_ms and deadline_passed(w, s.expires_ms):
        session_end(w, s, CLOSE_MAX_DURATION)
    elif s.flags & (SESSION_THROTTLED | SESSION_HEADER_HELD | SESSION_ACK_HELD):
        if s.flags & SESSION_THROTTLED:
            s.active_ms = <uint32_t>w.now_ms       # it is we who wait
        s.flags &= <uint16_t>~SESSION_THROTTLED
        session_release(s)
        session_rearm(w, s)
        session_pump(w, s)
    elif not session_stalled(w, s):
        session_outlives(s)
        session_rearm(w, s)
    elif s.half_close_ms and session_is_ending(s) and deadline_passed(w, s.active_ms + s.half_close_ms):
        session_end(w, s, CLOSE_HALF_CLOSE_TIMEOUT)
    else:
        session_end(w, s, CLOSE_IDLE_TIMEOUT)


cdef inline void session_timeout_early(worker_t *w, session_t *s) noexcept nogil:
    """A connect takes its time: from now on the client is watched. Or the deadline has moved since."""
    if s.state != SESSION_CONNECTING or session_watch(w, s):
        session_arm(w, s, s.state_deadline_ms)


cdef inline void session_timeout(worker_t *w, session_t *s) noexcept nogil:
    """Its timer fired: a deadline has passed, or has moved since and is armed again."""
    if s.state == SESSION_RELAYING:
        session_timeout_relaying(w, s)
    elif s.state == SESSION_RESETTING or s.state == SESSION_CLOSING:
        session_timeout_ending(w, s)
    elif not deadline_passed(w, s.state_deadline_ms):
        session_timeout_early(w, s)
    elif s.state == SESSION_READING:
        session_timeout_reading(w, s)
    elif s.state == SESSION_QUEUED:
        session_end(w, s, CLOSE_QUEUE_TIMEOUT)
    elif s.state == SESSION_PAUSING:
        session_try_again(w, s)
    else:
        session_retry(w, s, FAILURE_TIMEOUT, CLOSE_CONNECT_TIMEOUT)


# ---- its turn ----

cdef inline void session_turn(worker_t *w, session_t *s) noexcept nogil:
    """Its turn in the ready list has come."""
    if s.state == SESSION_RELAYING:
        session_pump(w, s)
    elif s.state == SESSION_RESETTING or s.state == SESSION_CLOSING:
        session_ending_progress(w, s)
