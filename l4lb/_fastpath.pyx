# The Python face of the workers: errno to exception, and the one place where a thread leaves the GIL for good
# (`DataPlane.run`). What happens there is in `_dataplane/*.pxd`; what workers go by is made in `_native/snapshots.pyx`.
#
# Imported by `l4lb.engine` alone. Methods are called on the control thread, except `run` and `take_records`.
"""Native data plane; see `l4lb.engine.native` for the interface to use."""

import os

from cython cimport final
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.types cimport pid_t
from posix.unistd cimport getpid

from l4lb._dataplane.admission.heaviest cimport (
    SOURCES_BY_BYTES, SOURCES_BY_RATE, SOURCES_BY_SESSIONS, found_source_t, heaviest_t, source_order_t,
    sources_heaviest,
)
from l4lb._dataplane.admission.sources cimport SOURCE_RECENT_NS, sources_close, sources_init
from l4lb._dataplane.base.enums cimport (
    CLOSE_REASON_COUNT, DROP_REASON_COUNT, FAILURE_COUNT, HISTOGRAM_BUCKETS, HOOK_RESULT_COUNT, NOTICE_SLOTS,
    PATH_ERROR_COUNT, RECORD_SLOTS, SHORTAGE_COUNT,
)
from l4lb._dataplane.base.linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, clock_now_ns, close, counter_read, eventfd, gauge_read, ntohs, published_load_pointer,
    published_load_u64, published_store_pointer, published_store_u32, published_store_u64, read, shared_read,
    shared_store, write,
)
from l4lb._dataplane.base.source_types cimport SOURCE_LIMIT_COUNT, source_key_t
from l4lb._dataplane.base.worker_types cimport notices_t, plane_t, record_t, records_t, worker_counters_t, worker_t
from l4lb._dataplane.tls.libcrypto cimport libcrypto_load
from l4lb._dataplane.udp.migration cimport import_batch_reserve
from l4lb._dataplane.worker.loop cimport worker_close, worker_open, worker_release, worker_run
from l4lb._native.convert cimport address_bytes, buckets_list, zeroed
from l4lb._native.counted cimport Counts
from l4lb._native.hooks cimport Hooks
from l4lb._native.migration cimport Exports, Imports
from l4lb._native.snapshots cimport BackendLive, NativeSnapshot
from l4lb._native.sweeps cimport Sweep
from l4lb._native.tcp_migration cimport TcpMoves

from l4lb._native.reports import FoundSource, WorkerCounters

HISTOGRAM_BOUNDS_S = [64e-6 * 2**i for i in range(<int>HISTOGRAM_BUCKETS - 1)]
CLOSE_REASONS = <int>CLOSE_REASON_COUNT
DROP_REASONS = <int>DROP_REASON_COUNT
CONNECT_FAILURES = <int>FAILURE_COUNT
PATH_ERRORS = <int>PATH_ERROR_COUNT
HOOK_RESULTS = <int>HOOK_RESULT_COUNT
SOURCE_LIMITS = <int>SOURCE_LIMIT_COUNT
SOURCE_ORDERS = {"sessions": <int>SOURCES_BY_SESSIONS, "rate": <int>SOURCES_BY_RATE, "bytes": <int>SOURCES_BY_BYTES}


def load_libcrypto():
    """Make workers able to read QUIC's ClientHello, before a snapshot has routes that need it. False when OpenSSL's
    libcrypto is not there."""
    return bool(libcrypto_load())


@final
cdef class EndedSession:
    """The record of a session that has ended: see `record_t`. Addresses as `address_bytes` has them, empty for a unix
    socket. There is one for each session: a native class is made and read as fast as a tuple."""

    cdef readonly uint64_t session_id
    cdef readonly uint32_t listener_id
    cdef readonly uint32_t pool_slot
    cdef readonly uint32_t backend_id
    cdef readonly bytes client
    cdef readonly uint16_t client_port
    cdef readonly bytes local
    cdef readonly uint16_t local_port
    cdef readonly double started_s
    cdef readonly double connect_s
    cdef readonly double duration_s
    cdef readonly uint64_t bytes_up
    cdef readonly uint64_t bytes_down
    cdef readonly uint16_t attempts
    cdef readonly uint8_t close_reason
    cdef readonly bint spliced
    cdef readonly bint tagged
    cdef readonly bytes sni


cdef EndedSession ended_session(record_t *record):
    cdef EndedSession ended = EndedSession.__new__(EndedSession)
    ended.session_id = record.session_id
    ended.listener_id = record.listener_id
    ended.pool_slot = record.pool_slot
    ended.backend_id = record.backend_id
    ended.client = address_bytes(&record.source)
    ended.client_port = ntohs(record.source.port)
    ended.local = address_bytes(&record.local)
    ended.local_port = ntohs(record.local.port)
    ended.started_s = record.started_ns / 1e9
    ended.connect_s = record.connect_ns / 1e9
    ended.duration_s = record.duration_ns / 1e9
    ended.bytes_up = record.bytes_up
    ended.bytes_down = record.bytes_down
    ended.attempts = record.attempts
    ended.close_reason = record.close_reason
    ended.spliced = record.spliced != 0
    ended.tagged = record.tagged != 0
    ended.sni = (<char *>record.sni)[:record.sni_length]
    return ended


cdef object found_source(const found_source_t *found):
    cdef const source_key_t *key = &found.source.key
    return FoundSource(
        listener_id=key.listener_id,
        network=(<char *>key.network)[:key.length],
        bits=key.bits,
        scope_id=key.scope_id,
        sessions=found.source.sessions,
        sessions_total=found.source.sessions_total,
        session_rate=found.recent * 1e9 / SOURCE_RECENT_NS,
        limited=found.source.refused,
        bytes_up=found.source.bytes[0],
        bytes_down=found.source.bytes[1],
    )


@final
cdef class DataPlane:
    """The workers, their shared counts and the pointer to the snapshot that they read."""

    cdef plane_t plane
    cdef readonly int worker_count
    cdef Sweep sweep                     # the last one that was begun
    cdef readonly TcpMoves tcp
    cdef readonly Counts counts
    cdef pid_t owner
    cdef readonly Hooks hooks

    def __cinit__(self, int worker_count, int64_t max_sessions, bint balance_workers=False, uint64_t busy_poll_ns=0):
        cdef uint32_t i
        cdef int error
        self.worker_count = 0
        self.owner = getpid()
        self.plane.hook_fd = -1
        self.plane.notice_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.plane.notice_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.plane.instance = int.from_bytes(os.urandom(8), "big")
        self.plane.max_sessions = max_sessions
        self.tcp = TcpMoves.of(&self.plane)
        self.counts = Counts.of(&self.plane)
        self.hooks = Hooks.of(&self.plane)
        sources_init(&self.plane.sources, int.from_bytes(os.urandom(8), "big"))
        self.plane.balance_workers = balance_workers and worker_count > 1
        self.plane.worker_count = worker_count
        self.plane.workers = <worker_t **>zeroed(worker_count, sizeof(worker_t *))
        for i in range(worker_count):
            self.plane.workers[i] = <worker_t *>zeroed(1, sizeof(worker_t))
            self.plane.workers[i].busy_poll_ns = busy_poll_ns
            self.worker_count += 1
            error = worker_open(self.plane.workers[i], &self.plane, i)
            if error < 0:
                raise OSError(-error, os.strerror(-error))

    def __dealloc__(self):
        cdef int i
        if getpid() != self.owner:  # forked while workers were changing what is to be freed
            return
        for i in range(self.worker_count):
            worker_close(self.plane.workers[i])
            free(self.plane.workers[i])
        free(self.plane.workers)
        sources_close(&self.plane.sources)

    def run(self, int index):
        """Be worker `index` until `stop`. Called once on a thread of its own, which leaves the GIL here."""
        cdef worker_t *w = self.plane.workers[index]
        with nogil:
            worker_run(w)

    def publish(self, NativeSnapshot snapshot):
        """Make `snapshot` what workers read. The caller keeps the one before until `seen_version` has passed it."""
        published_store_pointer(&self.plane.snapshot, &snapshot.snapshot)
        self.wake()

    def seen_version(self):
        """The oldest snapshot version that a worker may still read."""
        return min(published_load_u64(&self.plane.workers[i].seen_version) for i in range(self.worker_count))

    def stop(self):
        """Ask every `run` to return, ending its sessions with close reason ``shutdown``."""
        cdef int i
        for i in range(self.worker_count):
            published_store_u32(&self.plane.workers[i].stopping, 1)
        self.wake()

    def finish(self):
        """After every `run` has returned: close clients on their way between workers, and all file descriptors."""
        cdef int i
        for i in range(self.worker_count):
            worker_release(self.plane.workers[i])
        self.hooks.close()
        close(self.plane.notice_fd)
        self.plane.notice_fd = -1

    @property
    def instance(self):
        """What unique ids begin with: a number that no other process has, nor this one after a restart."""
        return self.plane.instance

    @property
    def notice_fd(self):
        """Readable when `take_notices` has something to say."""
        return self.plane.notice_fd

    def take_notices(self):
        """Ids of backends that have failed `passive_failures` times in a row, or more, since the last call."""
        cdef uint64_t ignored
        cdef notices_t *notices
        cdef int i
        ids = set()
        read(self.plane.notice_fd, &ignored, sizeof(ignored))       # EAGAIN: nothing since
        for i in range(self.worker_count):
            notices = &self.plane.workers[i].notices
            while notices.read != published_load_u64(&notices.written):
                ids.add(notices.backend_ids[notices.read % NOTICE_SLOTS])
                published_store_u64(&notices.read, notices.read + 1)
        return ids

    def evict(self, list backends, int reason):
        """End the sessions that these `BackendLive` have now, with that close reason, at the workers' own pace."""
        cdef BackendLive backend
        for backend in backends:
            published_store_u32(&backend.live.evict_reason, reason)
            published_store_u64(&backend.live.evict_version, self.plane.evict_version + 1)
        published_store_u64(&self.plane.evict_version, self.plane.evict_version + 1)
        self.wake()

    def begin_sweep(self, Sweep sweep):
        """Have every worker make this pass, which is kept until another begins. The one before must be over."""
        sweep.begin(&self.plane, self.sweep)
        self.sweep = sweep
        self.wake()

    def hold_udp(self, bint held):
        """Have workers read no listening socket of UDP, or read them again."""
        published_store_u32(&self.plane.udp_held, held)
        self.wake()

    def begin_export(self):
        """Have every worker release its UDP sessions, for `take_exported`, while their listening sockets are held.
        Those of an earlier export must have been taken."""
        published_store_u64(&self.plane.export_version, self.plane.export_version + 1)
        self.wake()

    cdef bint has_exported(self, int index):
        return published_load_u64(&self.plane.workers[index].exported_version) == self.plane.export_version

    def export_over(self):
        """Whether all have."""
        cdef int i
        return all(self.has_exported(i) for i in range(self.worker_count))

    def take_exported(self):
        """The released sessions, as `ExportedFlow`. Each is returned once."""
        cdef int i
        taken = []
        for i in range(self.worker_count):
            if self.has_exported(i):
                taken += Exports.take(self.plane.workers[i])
        return taken

    def import_sessions(self, int index, Imports sessions not None):
        """Give worker `index` these sessions, once. False when it has not yet taken those before."""
        cdef worker_t *w = self.plane.workers[index]
        if published_load_pointer(<void **>&w.importing) != NULL:
            return False
        import_batch_reserve(&self.plane, sessions.batch)
        published_store_pointer(<void **>&w.importing, sessions.give())
        self.wake()
        return True

    def keep_records(self, bint wanted, int wake_fd=-1):
        """From now on keep a record of every session that ends, for `take_records`, or keep none any more. `wake_fd` is
        written when there are records again after all were taken; it must stay open until `finish`."""
        cdef records_t *ring
        cdef int i
        if wanted:
            self.plane.records_fd = wake_fd
        for i in range(self.worker_count):
            ring = &self.plane.workers[i].records
            if wanted and ring.slots == NULL:
                ring.slots = <record_t *>zeroed(RECORD_SLOTS, sizeof(record_t))
            published_store_u32(&ring.wanted, wanted)

    def take_records(self, uint64_t limit):
        """At most `limit` records of each worker's ring, as `EndedSession`. One thread at a time."""
        cdef int i
        taken = []
        for i in range(self.worker_count):
            self.take_from(&self.plane.workers[i].records, limit, taken)
        return taken

    cdef int take_from(self, records_t *ring, uint64_t limit, list taken) except -1:
        cdef uint64_t written = <uint64_t>shared_read(<int64_t *>&ring.written)
        cdef uint64_t end = written if written - ring.read < limit else ring.read + limit
        cdef uint64_t at
        for at in range(ring.read, end):
            taken.append(ended_session(&ring.slots[at % RECORD_SLOTS]))
        shared_store(<int64_t *>&ring.read, <int64_t>end)
        return 0

    def wake(self):
        """Write every worker's eventfd. EAGAIN: it holds a wake-up already."""
        cdef uint64_t one = 1
        cdef int i
        for i in range(self.worker_count):
            write(self.plane.workers[i].event_fd, &one, sizeof(one))

    def sessions_active(self):
        return shared_read(&self.plane.sessions_active)

    def bound_sessions(self, int64_t max_sessions):
        """From now on at most so many at a time; 0: without a bound. Those above it go on."""
        published_store_u64(<uint64_t *>&self.plane.max_sessions, max_sessions)

    def sources(self, uint32_t listener_id, int order, uint32_t limit):
        """(how many sources there are, the heaviest of them as `FoundSource`), of one listener or of all (0). `order`
        is one of SOURCE_ORDERS."""
        cdef heaviest_t heaviest
        cdef uint32_t i
        memset(&heaviest, 0, sizeof(heaviest))
        heaviest.order = <source_order_t>order
        heaviest.limit = limit
        heaviest.found = <found_source_t *>zeroed(limit, sizeof(found_source_t))
        try:
            with nogil:
                sources_heaviest(&self.plane.sources, &heaviest, listener_id, clock_now_ns())
            return heaviest.matched, [found_source(&heaviest.found[i]) for i in range(heaviest.count)]
        finally:
            free(heaviest.found)

    def shortages(self):
        """How often this host's own wants kept workers from asking a backend, by `shortage_t` from 1 on."""
        cdef int i, kind
        totals = [self.plane.before.shortages[kind] for kind in range(1, <int>SHORTAGE_COUNT)]
        for i in range(self.worker_count):
            for kind in range(1, <int>SHORTAGE_COUNT):
                totals[kind - 1] += counter_read(&self.plane.workers[i].counters.shortages[kind])
        return totals

    def worker_stats(self, int index):
        """`WorkerCounters` of one worker at this moment."""
        cdef worker_t *w = self.plane.workers[index]
        cdef worker_counters_t now
        cdef uint64_t *sums = <uint64_t *>&now
        cdef size_t field
        for field in range(sizeof(now) // sizeof(uint64_t)):
            sums[field] = counter_read(<uint64_t *>&w.counters + field)
            if index == 0:
                sums[field] += (<uint64_t *>&self.plane.before)[field]
        return WorkerCounters(
            sessions_active=gauge_read(&w.sessions.active),
            pipes=gauge_read(&w.pipes.out_count),
            chunks=gauge_read(&w.chunks.out_count),
            busy_ns=now.busy_ns,
            turns=now.turns,
            spliced_bytes=now.spliced_bytes,
            accept_pauses=now.accept_pauses,
            handed_over=now.transferred,
            records_dropped=now.records_dropped,
            late_answers=now.late_answers,
            connect_time=buckets_list(&now.connect_time),
            connect_time_sum_us=now.connect_time.sum_us,
            hook_time=buckets_list(&now.hook_time),
            hook_time_sum_us=now.hook_time.sum_us,
        )
