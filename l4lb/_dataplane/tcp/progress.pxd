# Progress: how long a session may stand still, and how to tell that it does not.
#
# Bytes that a sink's kernel took are not yet with the peer: they wait in its send queue while the peer reads slowly,
# and no edge reports when they leave it. So a session makes progress when bytes are handed to a kernel (relay.pxd notes
# that) or when a queue has got shorter since the last check. Checks cost nothing on the path of bytes: they come with
# the session's timer, four times in each time-out. So a session ends no later than 1.25 time-outs after its last byte
# was taken, and never while bytes are taken. Called on the worker's thread.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from l4lb._dataplane.base.enums cimport (
    ENDING_POLL_MAX_MS, ENDING_POLL_MS, HALF_EOF, HALF_SOURCE_FIN, SESSION_RELAYING, TIMER_IDLE,
)
from l4lb._dataplane.base.types cimport half_t, session_t
from l4lb._dataplane.base.worker_types cimport worker_t
from l4lb._dataplane.resources.timers cimport timers_arm
from l4lb._dataplane.session.closing cimport socket_unsent

cdef enum:
    HOUR_MS = 3600000             # a session without any deadline still checks now and then
    POLL_BYTES_PER_MS = 4096        # of unsent bytes; a guess that only sets how often to check


# ---- deadlines ----

cdef inline uint32_t earlier_ms(uint32_t a, uint32_t b) noexcept nogil:
    return a if <int32_t>(a - b) < 0 else b


cdef inline bint deadline_passed(worker_t *w, uint32_t deadline_ms) noexcept nogil:
    return <int32_t>(<uint32_t>w.now_ms - deadline_ms) >= 0


cdef inline void session_arm(worker_t *w, session_t *s, uint32_t due_ms) noexcept nogil:
    """Fire no later than `due_ms` (the worker's clock, low 32 bits). An earlier timer is left alone: it will arm
    again."""
    cdef int32_t ahead_ms = <int32_t>(due_ms - <uint32_t>w.now_ms)
    cdef uint64_t due = w.now_ms + (<uint64_t>ahead_ms if ahead_ms > 0 else 0)
    if s.timer.slot != TIMER_IDLE and <int32_t>(s.timer.due_tick - <uint32_t>(due // 8)) <= 0:
        return
    timers_arm(&w.timers, &w.sessions, s, due)


cdef inline bint session_is_ending(session_t *s) noexcept nogil:
    """One of its sides was reset, or has sent its FIN, forwarded or not: half_close_timeout applies."""
    return s.state != SESSION_RELAYING or (s.up.flags | s.down.flags) & (HALF_SOURCE_FIN | HALF_EOF)


cdef inline uint32_t session_stall_timeout_ms(session_t *s) noexcept nogil:
    """How long a session with a backend may stand still now; 0: for ever."""
    if s.half_close_ms and session_is_ending(s) and (s.idle_ms == 0 or s.half_close_ms < s.idle_ms):
        return s.half_close_ms
    return s.idle_ms


cdef inline void session_rearm(worker_t *w, session_t *s) noexcept nogil:
    """Arm for the earliest deadline of a relaying session, or for its next check."""
    cdef uint32_t due = <uint32_t>w.now_ms + HOUR_MS
    cdef uint32_t timeout_ms = session_stall_timeout_ms(s)
    if timeout_ms:
        due = earlier_ms(due, s.active_ms + timeout_ms)
        due = earlier_ms(due, <uint32_t>w.now_ms + timeout_ms // 4)
    if s.expires_ms:
        due = earlier_ms(due, s.expires_ms)
    session_arm(w, s, due)


cdef inline void session_poll(worker_t *w, session_t *s, int sink_fd) noexcept nogil:
    """Check later whether a sink has taken what was left for it, since no edge reports it. The more is left, the
    later."""
    cdef uint32_t wait_ms = <uint32_t>socket_unsent(sink_fd) // POLL_BYTES_PER_MS
    cdef uint32_t timeout_ms = session_stall_timeout_ms(s)
    if wait_ms < ENDING_POLL_MS:
        wait_ms = ENDING_POLL_MS
    if wait_ms > ENDING_POLL_MAX_MS:
        wait_ms = ENDING_POLL_MAX_MS
    if timeout_ms and wait_ms > timeout_ms // 4:
        wait_ms = timeout_ms // 4
    session_arm(w, s, <uint32_t>w.now_ms + wait_ms)


# ---- checking ----

cdef inline bint half_check_progress(half_t *h, int sink_fd) noexcept nogil:
    """Whether the peer has taken something since the last check.

    What it has taken is what was handed to its kernel less what is unsent. Over TCP that never falls except by one, for
    a FIN that was queued; on a unix socket, whose queue counts the kernel's own overhead, it falls with each send.
    Neither rises unless the peer took something: a reset leaves the queue as it was.
    """
    cdef int64_t taken = <int64_t>h.bytes - socket_unsent(sink_fd)
    cdef bint more = taken > h.taken
    h.taken = taken
    return more


cdef inline void session_check_progress(worker_t *w, session_t *s) noexcept nogil:
    cdef bint up = half_check_progress(&s.up, s.backend_fd)
    cdef bint down = half_check_progress(&s.down, s.client_fd)
    if up or down:
        s.active_ms = <uint32_t>w.now_ms


cdef inline bint session_stalled(worker_t *w, session_t *s) noexcept nogil:
    """Whether the session has stood still for as long as it may."""
    cdef uint32_t timeout_ms = session_stall_timeout_ms(s)
    if timeout_ms == 0:
        return False
    session_check_progress(w, s)
    return deadline_passed(w, s.active_ms + timeout_ms)
