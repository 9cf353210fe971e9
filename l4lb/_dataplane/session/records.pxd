# Records: what is kept about an ended session: histograms in its worker's counters, and, when control asked for it, a
# record in the worker's ring. A ring that is not emptied in time drops records and counts them; it never blocks.
#
# The reader sleeps on `plane_t.records_fd` while all rings are empty. No wake-up is lost: a worker reads `read` after
# it has stored `written`, the reader reads `written` after it has stored `read`; both are sequentially consistent.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.addresses cimport source_address_from, source_address_set
from l4lb._dataplane.base.enums cimport HISTOGRAM_BUCKETS, RECORD_SLOTS, SESSION_SPLICED, close_reason_t
from l4lb._dataplane.base.linux cimport (
    count_leading_zeros, counter_add, getsockname, published_load_u32, published_load_u64, shared_read, shared_store,
    sockaddr, sockaddr_storage, socklen_t, write,
)
from l4lb._dataplane.base.types cimport histogram_t, preface_t, session_t, source_address_t
from l4lb._dataplane.base.worker_types cimport accepted_client_t, record_t, records_t, worker_t


cdef inline void histogram_add(histogram_t *self, uint64_t duration_ns) noexcept nogil:
    """Bucket i takes what is below 64 us * 2**i."""
    cdef uint64_t units = duration_ns // 64000
    cdef int bucket = 64 - count_leading_zeros(units) if units else 0
    if bucket >= HISTOGRAM_BUCKETS:
        bucket = HISTOGRAM_BUCKETS - 1
    counter_add(&self.buckets[bucket], 1)
    counter_add(&self.sum_us, duration_ns // 1000)


cdef inline uint64_t session_id_next(worker_t *w) noexcept nogil:
    """For a session, or a client that gets none. Unique among the processes that take over from each other."""
    w.ids += 1
    return w.plane.epoch << 48 | w.ids << 24 >> 16 | w.index


cdef inline void socket_local(source_address_t *local, int fd, uint16_t port) noexcept nogil:
    """The address and port that a client connected to: `port`, or what the socket says. getsockname(2) does not fail on
    an open socket."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    address.ss_family = 0
    getsockname(fd, <sockaddr *>&address, &length)
    source_address_set(local, &address)
    if local.port == 0:
        local.port = port


cdef inline void session_local(session_t *s, source_address_t *local) noexcept nogil:
    """Where its client connected to; for UDP, what the kernel reported with its datagrams."""
    socket_local(local, s.client_fd if s.flow == NULL else s.flow.fd, s.local_port)
    if s.flow != NULL and s.flow.local_length:
        source_address_from(local, s.flow.local, s.flow.local_length)
        local.scope_id = s.flow.interface


cdef inline uint32_t record_backend(session_t *s) noexcept nogil:
    """The backend that it has, or the last one that refused it."""
    if s.backend != NULL:
        return s.backend.id
    if s.tried != NULL and s.tried.count:
        return s.tried.backend_ids[s.tried.count - 1]
    return 0


cdef inline uint64_t record_connect_ns(session_t *s) noexcept nogil:
    """At least 1 once it was connected, even within one turn of the worker's clock."""
    if not s.connected_ns:
        return 0
    return s.connected_ns - s.attempt_started_ns if s.connected_ns > s.attempt_started_ns else 1


cdef inline void record_sni(record_t *record, const preface_t *preface) noexcept nogil:
    """In the preface's bytes it follows the TLVs that were received."""
    record.sni_length = 0
    if preface != NULL:
        record.sni_length = preface.authority_length
        memcpy(record.sni, <const uint8_t *>preface + sizeof(preface_t) + preface.received_length, record.sni_length)


cdef inline void record_fill(worker_t *w, record_t *record, session_t *s, close_reason_t reason) noexcept nogil:
    record.started_ns = s.started_ns
    record.connect_ns = record_connect_ns(s)
    record.duration_ns = w.now_ns - s.started_ns
    record.bytes_up = s.up.bytes
    record.bytes_down = s.down.bytes
    record.session_id = s.id
    record.listener_id = s.listener.id
    record.pool_slot = s.pool.slot
    record.backend_id = record_backend(s)
    record.source = s.source
    session_local(s, &record.local)
    record.attempts = s.attempts
    record.close_reason = <int>reason
    record.spliced = s.flags & SESSION_SPLICED != 0
    record.tagged = s.tagged
    record_sni(record, s.preface)


cdef inline record_t *record_begin(worker_t *w) noexcept nogil:
    """A place for a record, which `record_done` publishes; NULL when no records are wanted or the ring is full."""
    cdef records_t *ring = &w.records
    if not published_load_u32(&ring.wanted):
        return NULL
    if ring.written - published_load_u64(&ring.read) >= RECORD_SLOTS:
        counter_add(&w.counters.records_dropped, 1)
        return NULL
    return &ring.slots[ring.written % RECORD_SLOTS]


cdef inline void record_done(worker_t *w) noexcept nogil:
    """Publish it, and wake the reader if it has taken all before this one. write(2): EAGAIN, it is awake."""
    cdef records_t *ring = &w.records
    cdef uint64_t one = 1
    shared_store(<int64_t *>&ring.written, <int64_t>(ring.written + 1))
    if <uint64_t>shared_read(<int64_t *>&ring.read) + 1 == ring.written:
        write(w.plane.records_fd, &one, sizeof(one))


cdef inline void record_session(worker_t *w, session_t *s, close_reason_t reason) noexcept nogil:
    """Called once for each session, when it ends and before its backend is released."""
    cdef record_t *record
    histogram_add(&s.listener.counters[w.index].session_time, w.now_ns - s.started_ns)
    record = record_begin(w)
    if record != NULL:
        record_fill(w, record, s, reason)
        record_done(w)


cdef inline void record_client(worker_t *w, accepted_client_t *client, close_reason_t reason) noexcept nogil:
    """The same for a client that gets no session, while its socket is open."""
    cdef record_t *record = record_begin(w)
    if record == NULL:
        return
    memset(record, 0, sizeof(record_t))
    record.started_ns = w.now_ns
    record.session_id = session_id_next(w)
    record.listener_id = client.listener.id
    record.pool_slot = client.pool.slot
    record.close_reason = <int>reason
    source_address_set(&record.source, &client.address)
    socket_local(&record.local, client.fd, client.local_port)
    record_done(w)
