# Ending: a session of which one side is over, until the other has taken what that side left for it. RESETTING: it was
# reset, and the other is reset too. CLOSING: it sent its FIN on a listener with half_close = false, and the other is
# closed. Called by transitions.pxd and events.pxd, on the worker's thread.
#
# The session's timer checks whether the sink's queue is empty (progress.pxd). Meanwhile what the sink sends is read and
# discarded: it has no receiver, but a peer that must send before it reads on would otherwise never take the rest, and
# close(2) with unread bytes would reset a peer that is to see a FIN.

from libc.errno cimport errno
from libc.stdint cimport uint32_t

from l4lb._dataplane.balancing.failure_notices cimport backend_failed
from l4lb._dataplane.base.enums cimport (
    CLOSE_BACKEND_ABORT, CLOSE_CLIENT_ABORT, CLOSE_HALF_CLOSE_TIMEOUT, CLOSE_MAX_DURATION, CLOSE_NORMAL, HALF_EOF,
    HALF_FIN_SENT, HALF_READABLE, HALF_READ_ON, HALF_WRITABLE, SCRATCH_BYTES, SESSION_ANSWERED, SESSION_BACKEND_RESET,
    SESSION_CLIENT_RESET, SESSION_CLOSING, SESSION_RESETTING, SIDE_BACKEND, SIDE_CLIENT, TURN_BYTES, close_reason_t,
    side_t,
)
from l4lb._dataplane.base.linux cimport EAGAIN, EINTR, counter_add, recv
from l4lb._dataplane.base.types cimport half_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.ready cimport ready_push
from l4lb._dataplane.session.closing cimport session_end, socket_has_unsent, socket_unsent
from l4lb._dataplane.session.half cimport half_drop, half_pending
from l4lb._dataplane.session.latency cimport answer_watch
from l4lb._dataplane.session.setup cimport session_pool
from l4lb._dataplane.tcp.progress cimport deadline_passed, session_poll, session_stalled
from l4lb._dataplane.tcp.relay cimport (
    PUMP_AGAIN, PUMP_NO_MEMORY, PUMP_SINK_LOST, PUMP_SOURCE_LOST, PUMP_THROTTLED, pump_down, pump_t, pump_up,
)

cdef enum discarded_t:
    DISCARD_EMPTY = 0             # or its FIN was read
    DISCARD_MORE                  # others come first
    DISCARD_LOST                  # the socket was reset


cdef inline discarded_t socket_discard(worker_t *w, int fd) noexcept nogil:
    """Read and discard what is there, at most one turn's worth.

    recv(2): EAGAIN empty; 0 the FIN; ECONNRESET, ETIMEDOUT, EHOSTUNREACH and the rest lost.
    """
    cdef uint32_t left = TURN_BYTES // SCRATCH_BYTES
    cdef ssize_t got
    while left:
        left -= 1
        got = recv(fd, w.scratch, SCRATCH_BYTES, 0)
        if got == 0 or (got < 0 and errno == EAGAIN):
            return DISCARD_EMPTY
        if got < 0 and errno != EINTR:
            return DISCARD_LOST
    return DISCARD_MORE


# ---- RESETTING ----

cdef inline void session_reset_progress(worker_t *w, session_t *s) noexcept nogil:
    """Bring the lost side's last bytes to the other side, then end. If the other is lost too: end at once."""
    cdef bint client_lost = s.flags & SESSION_CLIENT_RESET
    cdef half_t *carrying = &s.up if client_lost else &s.down
    cdef int sink_fd = s.backend_fd if client_lost else s.client_fd
    cdef pump_t outcome = pump_up(w, s) if client_lost else pump_down(w, s)
    cdef discarded_t discarded = socket_discard(w, sink_fd)
    if outcome == PUMP_SINK_LOST or outcome == PUMP_NO_MEMORY or discarded == DISCARD_LOST:
        session_end(w, s, <close_reason_t>s.close_reason)
        return
    if outcome == PUMP_AGAIN or discarded == DISCARD_MORE:
        ready_push(w, s)
    if outcome == PUMP_AGAIN:
        return
    if outcome == PUMP_SOURCE_LOST:
        carrying.flags |= HALF_EOF
    if outcome == PUMP_THROTTLED:
        s.active_ms = <uint32_t>w.now_ms           # the wait is ours
    if outcome == PUMP_THROTTLED or half_pending(carrying) or socket_has_unsent(sink_fd):
        session_poll(w, s, sink_fd)
    else:
        session_end(w, s, <close_reason_t>s.close_reason)


cdef inline void session_reset(worker_t *w, session_t *s, side_t lost) noexcept nogil:
    """One side was reset. What it sent before still goes to the other side, followed by the reset.

    Reading goes on until a read shows that nothing is left: a short one may have stopped at an urgent mark.
    """
    cdef half_t *carrying = &s.up if lost == SIDE_CLIENT else &s.down
    half_drop(w, &s.down if lost == SIDE_CLIENT else &s.up)
    if not s.flags & SESSION_ANSWERED:
        answer_watch(w, s)                         # its first bytes may have come just before
    if lost == SIDE_BACKEND and s.down.bytes == 0:
        counter_add(&s.backend.counters[w.index].early_resets, 1)
        backend_failed(w, session_pool(w, s), s.backend)
    s.state = SESSION_RESETTING
    s.flags |= SESSION_CLIENT_RESET if lost == SIDE_CLIENT else SESSION_BACKEND_RESET
    s.close_reason = CLOSE_CLIENT_ABORT if lost == SIDE_CLIENT else CLOSE_BACKEND_ABORT
    s.active_ms = <uint32_t>w.now_ms
    if not carrying.flags & HALF_EOF:
        carrying.flags |= HALF_READABLE | HALF_READ_ON
    session_reset_progress(w, s)


# ---- CLOSING ----

cdef inline void session_close_progress(worker_t *w, session_t *s) noexcept nogil:
    """End when the FIN and all bytes before it were taken, and what was read for its sender before is with its
    kernel."""
    cdef bint client_first = s.up.flags & HALF_FIN_SENT
    cdef half_t *other = &s.down if client_first else &s.up
    cdef int sink_fd = s.backend_fd if client_first else s.client_fd
    cdef pump_t outcome = pump_down(w, s) if client_first else pump_up(w, s)
    cdef bint taken = socket_unsent(sink_fd) == 0
    cdef discarded_t discarded = socket_discard(w, sink_fd)
    cdef bint waits = not taken and socket_has_unsent(sink_fd)
    if not taken and not waits:
        taken = socket_unsent(sink_fd) == 0        # the rest went between the two looks, or the sink was reset
    if outcome == PUMP_SINK_LOST or outcome == PUMP_NO_MEMORY:
        half_drop(w, other)                        # the sender of the FIN is gone, and needs nothing more
    if taken and not half_pending(other):
        session_end(w, s, CLOSE_NORMAL)
    elif discarded == DISCARD_LOST or not (taken or waits):
        session_end(w, s, CLOSE_BACKEND_ABORT if client_first else CLOSE_CLIENT_ABORT)
    else:
        if discarded == DISCARD_MORE:
            ready_push(w, s)
        session_poll(w, s, sink_fd)


cdef inline void session_close(worker_t *w, session_t *s) noexcept nogil:
    """The first FIN was forwarded, and ends both sides: nothing more is read to be relayed."""
    s.state = SESSION_CLOSING
    s.active_ms = <uint32_t>w.now_ms
    s.close_reason = CLOSE_HALF_CLOSE_TIMEOUT      # unless it is taken
    s.up.flags |= HALF_EOF
    s.down.flags |= HALF_EOF
    session_close_progress(w, s)


# ---- both ----

cdef inline void session_ending_progress(worker_t *w, session_t *s) noexcept nogil:
    if s.state == SESSION_RESETTING:
        session_reset_progress(w, s)
    else:
        session_close_progress(w, s)


cdef inline void session_timeout_ending(worker_t *w, session_t *s) noexcept nogil:
    """With half_close_timeout off it has no deadline of its own: the kernel gives up a peer that is dead."""
    if s.expires_ms and deadline_passed(w, s.expires_ms):
        session_end(w, s, CLOSE_MAX_DURATION)
    elif session_stalled(w, s):
        session_end(w, s, <close_reason_t>s.close_reason)
    else:
        s.up.flags |= HALF_WRITABLE                # the client may not be watched for EPOLLOUT: try
        s.down.flags |= HALF_WRITABLE
        session_ending_progress(w, s)
