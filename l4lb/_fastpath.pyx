# The Python face of the data plane, and all of it: classes that own native memory, errno to exception, and the one
# place where a thread leaves the GIL for good (`DataPlane.run`). What happens there is in `_dataplane/*.pxd`.
#
# Imported by `l4lb.engine` alone. Methods are called on the control thread, except `run`.
"""Native data plane; see `l4lb.engine.native` for the interface to use."""

import os

from cython cimport final
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free

from l4lb._convert cimport (
    buckets_list, counters, indices_copy, pool_settings_fill, record_tuple, sockaddr_copy, terms_fill, zeroed,
)
from l4lb._dataplane.enums cimport (
    CLIENT_FIRST_MAX, CLOSE_REASON_COUNT, HASH_KEY_DESTINATION, HASH_KEY_RANDOM, HASH_KEY_SESSION,
    HASH_KEY_SOURCE_IP, HASH_KEY_SOURCE_IP_PORT, HISTOGRAM_BUCKETS, NOTICE_SLOTS, NO_INDEX, RECORD_SLOTS,
    SELECT_CURSOR, SELECT_FIRST, SELECT_HASH, SELECT_LEAST_SESSIONS, SELECT_PEAK_EWMA, SELECT_TWO_CHOICES,
    SPLICE_ALWAYS, SPLICE_AUTO, SPLICE_OFF, selection_t,
)
from l4lb._dataplane.linux cimport (
    AF_UNIX, EFD_CLOEXEC, EFD_NONBLOCK, close, counter_read, eventfd, htons, published_load_u32, published_load_u64,
    published_store_pointer, published_store_u32, published_store_u64, read, shared_read, shared_store, sockaddr_in,
    write,
)
from l4lb._dataplane.stats cimport counters_free, counters_total
from l4lb._dataplane.types cimport (
    backend_counters_t, backend_live_t, backend_t, listener_counters_t, listener_live_t, listener_t,
    listening_list_t, listening_t, notices_t, plane_t, pool_live_t, pool_t, queue_t, record_t, snapshot_t, worker_t,
)
from l4lb._dataplane.worker cimport worker_close, worker_open, worker_release, worker_run
from l4lb._sweeps cimport Sweep

SELECTIONS = {
    "cursor": <int>SELECT_CURSOR, "hash": <int>SELECT_HASH, "least_sessions": <int>SELECT_LEAST_SESSIONS,
    "two_choices": <int>SELECT_TWO_CHOICES, "first": <int>SELECT_FIRST, "peak_ewma": <int>SELECT_PEAK_EWMA,
}
HASH_KEYS = {
    "source_ip": <int>HASH_KEY_SOURCE_IP, "source_ip_port": <int>HASH_KEY_SOURCE_IP_PORT,
    "destination": <int>HASH_KEY_DESTINATION, "session": <int>HASH_KEY_SESSION, "random": <int>HASH_KEY_RANDOM,
}
RecordFields = tuple                     # its fields: see `DataPlane.take_records`
HISTOGRAM_BOUNDS_S = [64e-6 * 2**i for i in range(<int>HISTOGRAM_BUCKETS - 1)]
SPLICE_MODES = {"auto": <int>SPLICE_AUTO, "always": <int>SPLICE_ALWAYS, "off": <int>SPLICE_OFF}
CLOSE_REASONS = <int>CLOSE_REASON_COUNT


@final
cdef class DataPlane:
    """The workers, their shared counts and the pointer to the snapshot that they read."""

    cdef plane_t plane
    cdef readonly int worker_count
    cdef Sweep sweep                     # the last one that was begun

    def __cinit__(self, int worker_count, int64_t max_sessions, bint balance_workers=False, uint64_t busy_poll_ns=0):
        cdef uint32_t i
        cdef int error
        self.worker_count = 0
        self.plane.notice_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.plane.notice_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.plane.max_sessions = max_sessions
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
        for i in range(self.worker_count):
            worker_close(self.plane.workers[i])
            free(self.plane.workers[i])
        free(self.plane.workers)

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
        """After every `run` has returned: let go of clients on their way between workers, and of all fds."""
        cdef int i
        for i in range(self.worker_count):
            worker_release(self.plane.workers[i])
        close(self.plane.notice_fd)
        self.plane.notice_fd = -1

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

    def keep_records(self):
        """From now on keep a record of every session that ends, for `take_records`."""
        cdef int i
        for i in range(self.worker_count):
            if self.plane.workers[i].records.slots == NULL:
                published_store_pointer(
                    <void **>&self.plane.workers[i].records.slots, zeroed(RECORD_SLOTS, sizeof(record_t))
                )

    def take_records(self):
        """The records that wait in the workers' rings, as tuples: (session_id, listener_id, pool_slot, backend_id,
        client address bytes, client port, local port, started_ns, connect_ns, duration_ns, bytes_up, bytes_down,
        attempts, close reason, spliced)."""
        cdef int i
        taken = []
        for i in range(self.worker_count):
            self.take_from(self.plane.workers[i], taken)
        return taken

    cdef int take_from(self, worker_t *w, list taken) except -1:
        cdef uint64_t written = published_load_u64(&w.records.written)
        while w.records.read != written:
            taken.append(record_tuple(&w.records.slots[w.records.read % RECORD_SLOTS]))
            published_store_u64(&w.records.read, w.records.read + 1)
        return 0

    def wake(self):
        """Write every worker's eventfd. EAGAIN: it holds a wake-up already."""
        cdef uint64_t one = 1
        cdef int i
        for i in range(self.worker_count):
            write(self.plane.workers[i].event_fd, &one, sizeof(one))

    def sessions_active(self):
        return shared_read(&self.plane.sessions_active)

    def worker_stats(self, int index):
        """(sessions_active, pipes, chunks, busy_ns, turns, spliced_bytes, accept_pauses, handed_over, records_dropped,
        connect time buckets, their sum in us) of one worker."""
        cdef worker_t *w = self.plane.workers[index]
        return (
            published_load_u32(&w.sessions.active),
            published_load_u32(&w.pipes.out_count),
            published_load_u32(&w.chunks.out_count),
            counter_read(&w.counters.busy_ns),
            counter_read(&w.counters.turns),
            counter_read(&w.counters.spliced_bytes),
            counter_read(&w.counters.accept_pauses),
            counter_read(&w.counters.handed_over),
            counter_read(&w.counters.records_dropped),
            buckets_list(&w.counters.connect_time),
            counter_read(&w.counters.connect_time.sum_us),
        )


@final
cdef class BackendLive:
    """A backend's counts, which outlive snapshots. Keep it while `sessions_active` is above 0."""

    cdef backend_live_t live
    cdef uint32_t worker_count

    def __cinit__(self, DataPlane plane, uint32_t id):
        self.worker_count = plane.worker_count
        self.live.id = id
        self.live.counters = <backend_counters_t **>counters(self.worker_count, sizeof(backend_counters_t))

    def __dealloc__(self):
        counters_free(<void **>self.live.counters, self.worker_count)

    def sessions_active(self):
        return shared_read(&self.live.sessions_active)

    def failures(self):
        """In a row, up to now."""
        return shared_read(&self.live.failures)

    def forgive(self):
        """Count its failures anew."""
        shared_store(&self.live.failures, 0)

    def stats(self):
        """(sessions_active, sessions_total, bytes_up, bytes_down, connect_failures, early_resets)."""
        cdef backend_counters_t total
        counters_total(<void **>self.live.counters, self.worker_count, &total, sizeof(total))
        return (
            shared_read(&self.live.sessions_active),
            total.sessions_total,
            total.bytes_up,
            total.bytes_down,
            total.connect_failures,
            total.early_resets,
        )


@final
cdef class PoolLive:
    """What a pool's workers share. `slot`: its place in every snapshot. Keep it while `sessions_active` is above 0."""

    cdef pool_live_t live

    def __cinit__(self, DataPlane plane, uint32_t slot):
        cdef int i
        self.live.slot = slot
        self.live.queues = <queue_t *>zeroed(plane.worker_count, sizeof(queue_t))
        for i in range(plane.worker_count):
            self.live.queues[i].head = self.live.queues[i].tail = NO_INDEX

    def __dealloc__(self):
        free(self.live.queues)

    @property
    def slot(self):
        return self.live.slot

    def sessions_active(self):
        return shared_read(&self.live.sessions_active)

    def waiting(self):
        return shared_read(&self.live.waiting)


@final
cdef class ListenerLive:
    """A listener's counts and limits, which outlive snapshots. Keep it while `sessions_active` is above 0."""

    cdef listener_live_t live
    cdef uint32_t worker_count

    def __cinit__(self, DataPlane plane, uint32_t id):
        cdef uint32_t i
        self.worker_count = plane.worker_count
        self.live.counters = <listener_counters_t **>counters(self.worker_count, sizeof(listener_counters_t))
        self.live.id = id
        for i in range(self.worker_count):
            self.live.counters[i].client_first = CLIENT_FIRST_MAX

    def set_options(self, dict options):
        """What `backend_options_t` names; for connects from now on."""
        self.live.options = options

    def set_limits(self, bandwidth, total_bandwidth, uint64_t session_rate, uint64_t session_burst_ns):
        """Rates in bytes a second, as (up, down), and new sessions a second; 0: no limit. Holds at once, for all."""
        cdef int direction
        for direction in range(2):
            published_store_u64(&self.live.limits.bandwidth[direction], bandwidth[direction])
            published_store_u64(&self.live.limits.total_bandwidth[direction], total_bandwidth[direction])
        published_store_u64(&self.live.limits.session_burst_ns, session_burst_ns)
        published_store_u64(&self.live.limits.session_rate, session_rate)

    def __dealloc__(self):
        counters_free(<void **>self.live.counters, self.worker_count)

    def sessions_active(self):
        return shared_read(&self.live.sessions_active)

    def stats(self):
        """(sessions_active, sessions_total, [closed by reason], session time buckets, their sum in us)."""
        cdef listener_counters_t total
        cdef int reason
        counters_total(<void **>self.live.counters, self.worker_count, &total, sizeof(total))
        return (
            shared_read(&self.live.sessions_active),
            total.sessions_total,
            [total.closed[reason] for reason in range(<int>CLOSE_REASON_COUNT)],
            buckets_list(&total.session_time),
            total.session_time.sum_us,
        )


@final
cdef class NativePool:
    """An immutable `pool_t`, for all the snapshots in which the pool is the same. Holds on to what it points to.

    `spec`: live, selection, backends [(live, sockaddr bytes, weight, max_sessions)], usable (array "I", indices into
    backends) and slots (array "I", indices into usable; not to be changed), bounded_load, connect_timeout_ms,
    connect_attempts, passive_failures, queue_size, queue_timeout_ms, source (sockaddr bytes or empty), hash_seed,
    hash_key, hash_prefix_v4, hash_prefix_v6. A backend's address with port 0 means the port that the client came to.
    """

    cdef pool_t pool
    cdef list kept

    def __cinit__(self, dict spec):
        self.kept = []
        self.fill(&self.pool, spec)

    def __dealloc__(self):
        free(self.pool.backends)
        free(self.pool.usable)

    cdef int fill_slots(self, pool_t *pool, source) except -1:
        """Tables are large and shared by all the pools that have them: this one keeps it and points into it."""
        cdef const uint32_t[::1] slots = source
        pool.slot_count = slots.shape[0]
        if pool.slot_count:
            pool.slots = &slots[0]
        self.kept.append(source)
        return 0

    cdef int fill_backend(self, backend_t *backend, tuple spec) except -1:
        cdef BackendLive live
        cdef bytes address
        live, address, backend.weight, backend.max_sessions = spec
        backend.live = &live.live
        backend.address_length = sockaddr_copy(&backend.address, address)
        backend.same_port = backend.address.ss_family != AF_UNIX and (<sockaddr_in *>&backend.address).sin_port == 0
        self.kept.append(live)
        return 0

    cdef int fill(self, pool_t *pool, dict spec) except -1:
        cdef PoolLive live = spec["live"]
        cdef list backends = spec["backends"]
        cdef uint32_t i
        self.kept.append(live)
        pool.live = &live.live
        pool.selection = <selection_t><int>spec["selection"]
        pool.backends = <backend_t *>zeroed(len(backends), sizeof(backend_t))
        pool.backend_count = len(backends)
        for i in range(pool.backend_count):
            self.fill_backend(&pool.backends[i], backends[i])
        pool.usable = indices_copy(spec["usable"])
        pool.usable_count = len(spec["usable"])
        for i in range(pool.usable_count):
            pool.usable_weight += pool.backends[pool.usable[i]].weight
        self.fill_slots(pool, spec["slots"])
        pool_settings_fill(pool, spec)
        return 0


@final
cdef class NativeSnapshot:
    """An immutable `snapshot_t`. Holds on to the live objects that it points to.

    `listeners`: dicts of live, pool (one of `pools`), sockets [(worker, fd, port, shared)], max_sessions, idle_ms,
    half_close_ms, duration_ms, splice, nodelay.
    """

    cdef snapshot_t snapshot
    cdef uint32_t worker_count
    cdef list kept

    def __cinit__(self, uint64_t version, uint32_t worker_count, list pools, list listeners):
        cdef uint32_t i
        cdef NativePool pool
        self.kept = [pools]
        self.worker_count = worker_count
        self.snapshot.version = version
        self.snapshot.pool_slots = max([(<NativePool>pool).pool.live.slot + 1 for pool in pools], default=0)
        self.snapshot.pools_by_slot = <pool_t **>zeroed(self.snapshot.pool_slots, sizeof(pool_t *))
        self.snapshot.pools = <pool_t **>zeroed(len(pools), sizeof(pool_t *))
        for pool in pools:
            self.snapshot.pools[self.snapshot.pool_count] = &pool.pool
            self.snapshot.pools_by_slot[pool.pool.live.slot] = &pool.pool
            self.snapshot.pool_count += 1
        self.snapshot.listeners = <listener_t *>zeroed(len(listeners), sizeof(listener_t))
        self.snapshot.listener_count = len(listeners)
        self.snapshot.listening = <listening_list_t *>zeroed(worker_count, sizeof(listening_list_t))
        for i in range(self.snapshot.listener_count):
            self.fill_listener(&self.snapshot.listeners[i], listeners[i])
        for i in range(worker_count):
            self.fill_listening(i, listeners)

    def __dealloc__(self):
        cdef uint32_t i
        if self.snapshot.listening != NULL:
            for i in range(self.worker_count):
                free(self.snapshot.listening[i].entries)
        free(self.snapshot.listening)
        free(self.snapshot.pools)
        free(self.snapshot.pools_by_slot)
        free(self.snapshot.listeners)

    @property
    def version(self):
        return self.snapshot.version

    cdef int fill_listening(self, uint32_t worker, list listeners) except -1:
        """The sockets of one worker, of all listeners."""
        cdef listening_list_t *sockets = &self.snapshot.listening[worker]
        cdef listening_t *entry
        cdef uint32_t i
        mine = [[one for one in listener["sockets"] if one[0] == worker] for listener in listeners]
        sockets.entries = <listening_t *>zeroed(sum(map(len, mine)), sizeof(listening_t))
        for i in range(self.snapshot.listener_count):
            for _, fd, port, shared in mine[i]:
                entry = &sockets.entries[sockets.count]
                entry.fd = fd
                entry.port = htons(port)
                entry.shared = shared
                entry.listener = &self.snapshot.listeners[i]
                sockets.count += 1
        return 0

    cdef int fill_listener(self, listener_t *listener, dict spec) except -1:
        cdef ListenerLive live = spec["live"]
        cdef NativePool pool = spec["pool"]
        self.kept.append(live)
        listener.live = &live.live
        listener.pool = &pool.pool
        listener.max_sessions = spec["max_sessions"]
        terms_fill(&listener.terms, spec)
        return 0
