# Records: what is kept of an ended session. Histograms in the counters of its worker, and, when control asked for them,
# a record in the worker's ring. A ring that control does not empty in time drops and counts; it never blocks.

from libc.stdint cimport uint64_t

from l4lb._dataplane.enums cimport HISTOGRAM_BUCKETS, RECORD_SLOTS, SESSION_SPLICED, close_reason_t
from l4lb._dataplane.linux cimport count_leading_zeros, counter_add, published_load_u64, published_store_u64
from l4lb._dataplane.types cimport histogram_t, record_t, records_t, session_t, worker_t


cdef inline void histogram_add(histogram_t *self, uint64_t duration_ns) noexcept nogil:
    """Bucket i takes what is below 64 us * 2**i."""
    cdef uint64_t units = duration_ns // 64000
    cdef int bucket = 64 - count_leading_zeros(units) if units else 0
    if bucket >= HISTOGRAM_BUCKETS:
        bucket = HISTOGRAM_BUCKETS - 1
    counter_add(&self.buckets[bucket], 1)
    counter_add(&self.sum_us, duration_ns // 1000)


cdef inline uint64_t session_id(worker_t *w, session_t *s) noexcept nogil:
    """Unique while the process lives, until a slot was used 2**32 times."""
    return (<uint64_t>s.generation << 32) | (<uint64_t>w.index << 24) | s.index


cdef inline void record_fill(worker_t *w, record_t *record, session_t *s, close_reason_t reason) noexcept nogil:
    record.started_ns = s.started_ns
    record.connect_ns = s.connected_ns - s.attempt_started_ns if s.connected_ns else 0
    record.duration_ns = w.now_ns - s.started_ns
    record.bytes_up = s.up.bytes
    record.bytes_down = s.down.bytes
    record.session_id = session_id(w, s)
    record.listener_id = s.listener.id
    record.pool_slot = s.pool.slot
    record.backend_id = s.backend.id if s.backend != NULL else 0
    record.source = s.source
    record.local_port = s.local_port
    record.attempts = s.attempts
    record.close_reason = <int>reason
    record.spliced = s.flags & SESSION_SPLICED != 0


cdef inline record_t *record_begin(worker_t *w) noexcept nogil:
    """A place for a record, which `record_done` hands over; NULL when nobody wants records or the ring is full."""
    cdef records_t *ring = &w.records
    if ring.slots == NULL:
        return NULL
    if ring.written - published_load_u64(&ring.read) >= RECORD_SLOTS:
        counter_add(&w.counters.records_dropped, 1)
        return NULL
    return &ring.slots[ring.written % RECORD_SLOTS]


cdef inline void record_done(worker_t *w) noexcept nogil:
    published_store_u64(&w.records.written, w.records.written + 1)


cdef inline void record_session(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    """Called once for each session, when it ends and before it gives its backend back."""
    cdef record_t *record
    histogram_add(&s.listener.counters[w.index].session_time, w.now_ns - s.started_ns)
    record = record_begin(w)
    if record != NULL:
        record_fill(w, record, s, reason)
        record_done(w)
