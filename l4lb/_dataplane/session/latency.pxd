# Latency: how long a backend takes, in histograms by worker, and for the policies that choose by it. Called on the
# worker's thread.
#
#   connect      from the beginning of the attempt that succeeded until the backend has accepted it (and, where TLS is
#                agreed on with it, agreed); TCP alone
#   first byte   from when the session's first bytes were sent to the backend, or from the connect (UDP: from the
#                session's first datagram) if the backend speaks before that, until its first bytes were sent on
#   session      from the connect (UDP: from the first datagram) to the end, whatever ended it
#
# A worker looks at the clock once a turn, so all of it is as exact as a turn is short. What the process before this one
# measured at a session goes on here: start times come with it, and the histograms of the process where it ends, or is
# answered, count it.

from libc.stdint cimport uint32_t, uint64_t

from l4lb._dataplane.balancing.failure_notices cimport backend_answered
from l4lb._dataplane.base.enums cimport SESSION_ANSWERED, SESSION_MEASURED, TIME_BUCKETS
from l4lb._dataplane.base.ewma cimport ewma_add
from l4lb._dataplane.base.linux cimport count_leading_zeros, counter_add
from l4lb._dataplane.base.types cimport session_t, times_t
from l4lb._dataplane.base.worker_types cimport worker_t


cdef inline void times_add(times_t *self, uint64_t duration_ns) noexcept nogil:
    """Bucket i takes what is below 2**(i - 12) s: 2**-12 s are 15625 / 64 us."""
    cdef uint64_t duration_us = duration_ns // 1000
    cdef uint64_t units = duration_us * 64 // 15625
    cdef int bucket = 64 - count_leading_zeros(units) if units else 0
    if bucket >= TIME_BUCKETS:
        bucket = TIME_BUCKETS - 1
    counter_add(&self.buckets[bucket], 1)
    counter_add(&self.sum_us, duration_us)


cdef inline uint64_t elapsed_ns(worker_t *w, uint64_t since_ns) noexcept nogil:
    """Another process's clock may be a turn ahead of this worker's."""
    return w.now_ns - since_ns if w.now_ns > since_ns else 0


cdef inline void measure_failure(worker_t *w, session_t *s) noexcept nogil:
    """A backend that refuses at once must not look fast: it counts as one that took all of connect_timeout."""
    cdef uint32_t allowed_ms = s.state_deadline_ms - <uint32_t>(s.attempt_started_ns // 1000000)
    if s.flags & SESSION_MEASURED:
        ewma_add(&s.backend.connect_latency, allowed_ms * 1000.0, w.now_ms)


cdef inline void measure_connect(worker_t *w, session_t *s) noexcept nogil:
    cdef uint64_t taken_ns = elapsed_ns(w, s.attempt_started_ns)
    s.asked_ns = 0
    times_add(&s.backend.times[w.index].connect, taken_ns)
    if s.flags & SESSION_MEASURED:
        ewma_add(&s.backend.connect_latency, taken_ns / 1000.0, w.now_ms)


cdef inline void measure_answer(worker_t *w, session_t *s) noexcept nogil:
    cdef uint64_t taken_ns = elapsed_ns(w, s.asked_ns if s.asked_ns else s.connected_ns)
    times_add(&s.backend.times[w.index].first_byte, taken_ns)
    if s.flags & SESSION_MEASURED:
        ewma_add(&s.backend.answer_latency, taken_ns / 1000.0, w.now_ms)


cdef inline void measure_session(worker_t *w, session_t *s) noexcept nogil:
    """At its end."""
    if s.backend != NULL and s.connected_ns:
        times_add(&s.backend.times[w.index].session, elapsed_ns(w, s.connected_ns))


cdef inline void answer_watch(worker_t *w, session_t *s) noexcept nogil:
    """Until the backend's first bytes: notice them, and how long they took after the client's (or after the
    connect)."""
    if s.down.bytes:
        s.flags |= SESSION_ANSWERED
        backend_answered(s.backend)
        measure_answer(w, s)
    elif s.up.bytes and not s.asked_ns:
        s.asked_ns = w.now_ns
