# Latency: how long a backend takes to accept a connection and to answer, for the policies that choose by it. Called on
# the worker's thread.

from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.balancing.failure_notices cimport backend_answered
from l4lb._dataplane.base.enums cimport SESSION_ANSWERED, SESSION_MEASURED
from l4lb._dataplane.base.ewma cimport ewma_add
from l4lb._dataplane.base.types cimport session_t
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline void measure_failure(worker_t *w, session_t *s) noexcept nogil:
    """A backend that refuses at once must not look fast: it counts as one that took all of connect_timeout."""
    cdef uint32_t allowed_ms = s.state_deadline_ms - <uint32_t>(s.attempt_started_ns // 1000000)
    if s.flags & SESSION_MEASURED:
        ewma_add(&s.backend.connect_latency, allowed_ms * 1000.0, w.now_ms)


cdef inline void measure_connect(worker_t *w, session_t *s) noexcept nogil:
    s.asked_ns = 0
    if s.flags & SESSION_MEASURED:
        ewma_add(&s.backend.connect_latency, (w.now_ns - s.attempt_started_ns) / 1000.0, w.now_ms)


cdef inline void measure_answer(worker_t *w, session_t *s) noexcept nogil:
    cdef uint64_t since_ns = s.asked_ns if s.asked_ns else s.connected_ns
    ewma_add(&s.backend.answer_latency, (w.now_ns - since_ns) / 1000.0, w.now_ms)


cdef inline void answer_watch(worker_t *w, session_t *s) noexcept nogil:
    """Until the backend's first bytes: notice them, and how long they took after the client's (or after the
    connect)."""
    if s.down.bytes:
        s.flags |= SESSION_ANSWERED
        backend_answered(s.backend)
        if s.flags & SESSION_MEASURED:
            measure_answer(w, s)
    elif s.up.bytes and not s.asked_ns:
        s.asked_ns = w.now_ns
