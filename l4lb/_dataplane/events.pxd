# Events: what happens to a session (an edge of one of its sockets, its timer, its turn in the ready list), and which of
# the transitions in tcp.pxd that means in its state. Called by worker.pxd, on the worker's thread.

from libc.stdint cimport uint16_t, uint32_t

from l4lb._dataplane.closing cimport session_end
from l4lb._dataplane.connect cimport attempt_error
from l4lb._dataplane.enums cimport (
    CLOSE_CONNECT_FAILED, CLOSE_CONNECT_TIMEOUT, CLOSE_HALF_CLOSE_TIMEOUT, CLOSE_IDLE_TIMEOUT, CLOSE_MAX_DURATION,
    CLOSE_QUEUE_TIMEOUT, FAILURE_TIMEOUT, HALF_READABLE, HALF_READ_ON, HALF_WRITABLE, SESSION_ACK_HELD,
    SESSION_CONNECTING, SESSION_HEADER_HELD, SESSION_QUEUED, SESSION_READING, SESSION_RELAYING, SESSION_RESETTING,
    SESSION_THROTTLED, SIDE_CLIENT, close_reason_t, side_t,
)
from l4lb._dataplane.linux cimport AF_INET, EPOLLERR, EPOLLHUP, EPOLLPRI, SOL_SOCKET, SO_OOBINLINE, setsockopt, unlikely
from l4lb._dataplane.opening cimport session_event_reading, session_timeout_reading
from l4lb._dataplane.tcp cimport (
    deadline_passed, session_arm, session_connected, session_event_queued, session_half_closed, session_mark,
    session_pump, session_rearm, session_release, session_reset_progress, session_retry,
)
from l4lb._dataplane.types cimport half_t, session_t, worker_t
from l4lb._dataplane.verdicts cimport failure_reported


cdef inline void session_mark_urgent(session_t *s, side_t side) noexcept nogil:
    """Urgent data travels in the stream, as an ordinary byte (RFC 6093, section 3.3 asks receivers for it inline)."""
    cdef int on = 1
    cdef half_t *reads = &s.up if side == SIDE_CLIENT else &s.down
    setsockopt(s.client_fd if side == SIDE_CLIENT else s.backend_fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on))
    reads.flags |= HALF_READ_ON | HALF_READABLE


cdef inline void session_event_connecting(worker_t *w, session_t *s, uint32_t events) noexcept nogil:
    cdef int error = attempt_error(s) if events & (EPOLLERR | EPOLLHUP) else 0
    if error:
        session_retry(w, s, failure_reported(error, AF_INET), CLOSE_CONNECT_FAILED)
    else:
        session_connected(w, s, events)


cdef inline void session_event(worker_t *w, session_t *s, side_t side, uint32_t events) noexcept nogil:
    if unlikely(events & EPOLLPRI and (side == SIDE_CLIENT or s.state != SESSION_CONNECTING)):
        session_mark_urgent(s, side)
    if s.state == SESSION_READING:
        session_event_reading(w, s, events)
        return
    if s.state == SESSION_QUEUED:
        session_event_queued(w, s, events)
        return
    if s.state == SESSION_CONNECTING:
        if side == SIDE_CLIENT:
            session_mark(s, side, events)
        else:
            session_event_connecting(w, s, events)
        return
    session_mark(s, side, events)
    if s.state == SESSION_RELAYING:
        session_pump(w, s)
    elif s.state == SESSION_RESETTING:
        session_reset_progress(w, s)


cdef inline void session_timeout_relaying(worker_t *w, session_t *s) noexcept nogil:
    if session_half_closed(s) and s.half_close_ms and deadline_passed(w, s.state_deadline_ms):
        session_end(w, s, CLOSE_HALF_CLOSE_TIMEOUT)
    elif s.idle_ms and deadline_passed(w, s.active_ms + s.idle_ms):
        session_end(w, s, CLOSE_IDLE_TIMEOUT)
    elif s.expires_ms and deadline_passed(w, s.expires_ms):
        session_end(w, s, CLOSE_MAX_DURATION)
    elif s.flags & (SESSION_THROTTLED | SESSION_HEADER_HELD | SESSION_ACK_HELD):
        s.flags &= <uint16_t>~SESSION_THROTTLED
        session_release(s)
        session_rearm(w, s)
        session_pump(w, s)
    else:
        session_rearm(w, s)


cdef inline void session_timeout(worker_t *w, session_t *s) noexcept nogil:
    """Its timer fired: a deadline has passed, or has moved since and is armed again."""
    if s.state == SESSION_READING:
        session_timeout_reading(w, s)
    elif s.state == SESSION_QUEUED:
        if deadline_passed(w, s.state_deadline_ms):
            session_end(w, s, CLOSE_QUEUE_TIMEOUT)
        else:
            session_arm(w, s, s.state_deadline_ms)
    elif s.state == SESSION_CONNECTING:
        if deadline_passed(w, s.state_deadline_ms):
            session_retry(w, s, FAILURE_TIMEOUT, CLOSE_CONNECT_TIMEOUT)
        else:
            session_arm(w, s, s.state_deadline_ms)
    elif s.state == SESSION_RESETTING:
        if deadline_passed(w, s.state_deadline_ms):
            session_end(w, s, <close_reason_t>s.close_reason)
        else:
            s.up.flags |= HALF_WRITABLE      # the client may not be watched for EPOLLOUT: look
            s.down.flags |= HALF_WRITABLE
            session_reset_progress(w, s)
    else:
        session_timeout_relaying(w, s)


cdef inline void session_turn(worker_t *w, session_t *s) noexcept nogil:
    """Its turn in the ready list has come."""
    if s.state == SESSION_RELAYING:
        session_pump(w, s)
    elif s.state == SESSION_RESETTING:
        session_reset_progress(w, s)
