# Sessions of TCP on their way between processes, as one message. What workers do is in `_dataplane/tcp/precopy.pxd`,
# `_dataplane/tcp/exporting.pxd` and `_dataplane/tcp/importing.pxd`.
#
# Used by `l4lb.engine` alone, on the control thread.
"""Sessions that move between processes; see `l4lb.engine.tcp_migration` for the interface to use."""

from cpython.array cimport array, extend_buffer
from cython cimport final
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport bsearch, free, qsort, realloc
from libc.string cimport memcpy, memset

from l4lb._dataplane.base.enums cimport SESSION_QUEUED
from l4lb._dataplane.base.linux cimport (
    close, published_load_pointer, published_load_u64, published_store_pointer,
    published_store_u32, published_store_u64,
)
from l4lb._dataplane.base.migration_types cimport (
    EXPORTED_AHEAD, EXPORT_FORMAT, arrival_t, arrivals_t, exported_session_t, exports_t, imported_session_t,
    imported_sessions_t,
)
from l4lb._dataplane.base.types cimport backend_live_t, listener_live_t, pool_live_t
from l4lb._dataplane.base.worker_types cimport plane_t, worker_t
from l4lb._dataplane.resources.poller cimport worker_wake
from l4lb._dataplane.tcp.importing cimport (
    exported_fds, exported_is_sound, exported_size, imported_reserve, imported_sessions_free,
)
from l4lb._native.convert cimport numbered_find, numbered_init, zeroed
from l4lb._native.snapshots cimport BackendLive, ListenerLive, PoolLive

FORMAT = <int>EXPORT_FORMAT
RECORD_BYTES = sizeof(exported_session_t)                       # a test holds it to the format

cdef int compare_parts(const void *a, const void *b) noexcept nogil:
    """Queued sessions last, who waits longest first."""
    cdef const exported_session_t *one = (<const part_t *>a).said
    cdef const exported_session_t *other = (<const part_t *>b).said
    cdef int queued = (one.state == SESSION_QUEUED) - (other.state == SESSION_QUEUED)
    if queued or one.state != SESSION_QUEUED:
        return queued
    return -1 if <int>(one.state_deadline_ms - other.state_deadline_ms) < 0 else 1


cdef int compare_arrivals(const void *a, const void *b) noexcept nogil:
    """Of pointers to them."""
    cdef uint64_t one = (<const arrival_t **>a)[0].id, other = (<const arrival_t **>b)[0].id
    return (one > other) - (one < other)


@final
cdef class Arrivals:
    """Sockets of sessions that went ahead, for `worker_count` workers. Keep it until `TcpImports` is made. Those that
    are not given to workers are closed with this."""

    def __cinit__(self, int worker_count):
        self.worker_count = worker_count
        self.batches = <arrivals_t *>zeroed(worker_count, sizeof(arrivals_t))

    def __dealloc__(self):
        cdef uint32_t i, j
        if self.batches != NULL:
            for i in range(self.worker_count):
                for j in range(0 if self.given else self.batches[i].count):
                    close(self.batches[i].entries[j].fds[0])
                    close(self.batches[i].entries[j].fds[1])
                free(self.batches[i].entries)
        free(self.batches)
        free(self.by_id)

    def add(self, bytes ids not None, fds):
        """One message: two descriptors for each id, which belong to this from here on. ValueError, with all of them
        closed, for one that is none; MemoryError, with those closed that it has not got."""
        cdef uint32_t i = 0
        cdef arrival_t *entry
        try:
            if len(ids) != 4 * len(fds):
                raise ValueError("a socket is missing")
            while i < len(fds) // 2:
                entry = self.grow(self.count % self.worker_count)
                memcpy(&entry.id, <char *>ids + i * sizeof(uint64_t), sizeof(uint64_t))
                entry.fds = [fds[2 * i], fds[2 * i + 1]]
                self.count += 1
                i += 1
        except BaseException:
            for fd in fds[2 * i:]:
                close(fd)
            raise

    cdef arrival_t *grow(self, uint32_t worker) except NULL:
        cdef arrivals_t *batch = &self.batches[worker]
        cdef arrival_t *entries
        if batch.count % 256 == 0:
            entries = <arrival_t *>realloc(batch.entries, (batch.count + 256) * sizeof(arrival_t))
            if entries == NULL:
                raise MemoryError()
            batch.entries = entries
        memset(&batch.entries[batch.count], 0, sizeof(arrival_t))
        batch.entries[batch.count].worker = worker
        batch.count += 1
        return &batch.entries[batch.count - 1]

    cdef int index(self) except -1:  # once workers have taken them
        cdef uint32_t i, j
        self.by_id = <arrival_t **>zeroed(self.count, sizeof(arrival_t *))
        self.known = 0
        for i in range(self.worker_count):
            for j in range(self.batches[i].count):
                if not self.batches[i].entries[j].lost:
                    self.by_id[self.known] = &self.batches[i].entries[j]
                    self.known += 1
        qsort(self.by_id, self.known, sizeof(arrival_t *), compare_arrivals)
        return 0

    cdef arrival_t *find(self, uint64_t id) noexcept:
        """NULL when it is not here."""
        cdef arrival_t wanted
        cdef arrival_t *pointer = &wanted
        cdef arrival_t **found
        wanted.id = id
        found = <arrival_t **>bsearch(&pointer, self.by_id, self.known, sizeof(arrival_t *), compare_arrivals)
        return found[0] if found != NULL else NULL


@final
cdef class TcpImports:
    """TCP sessions of another process, for `worker_count` workers. `state` and `fds` are what that process exported,
    `arrivals` what went ahead and is with the workers; `listeners`, `pools` and `backends`: what its numbers stand for
    here, as `ListenerLive`, `PoolLive`, `BackendLive`.

    ValueError for what is no such message. The caller owns the descriptors until `start`.
    """

    def __cinit__(
        self, int worker_count, bytes state not None, array fds not None, Arrivals arrivals not None,
        dict listeners not None, dict pools not None, dict backends not None
    ):
        self.kept = [listeners, pools, backends, state, fds]
        self.fill_numbers(listeners, pools, backends)
        self.batches = <imported_sessions_t **>zeroed(worker_count, sizeof(imported_sessions_t *))
        self.worker_count = worker_count
        self.find_parts(state, fds)
        self.assign_parts(arrivals)
        for i in range(worker_count):
            self.fill_batch(i)

    def __dealloc__(self):
        cdef uint32_t i
        free(self.parts)
        free(self.listeners.places)
        free(self.pools.places)
        free(self.backends.places)
        if self.batches != NULL:
            for i in range(self.worker_count):
                imported_sessions_free(self.batches[i])
        free(self.batches)

    cdef int find_parts(self, bytes state, array fds) except -1:
        cdef const uint8_t *bytes_ = <const uint8_t *><const char *>state
        cdef const exported_session_t *said
        cdef size_t at = 0, length = len(state)
        cdef uint32_t fds_at = 0, fd_count = len(fds)
        self.parts = <part_t *>zeroed(length // sizeof(exported_session_t), sizeof(part_t))
        while at < length:
            said = <const exported_session_t *>(bytes_ + at)
            if length - at < sizeof(exported_session_t) or length - at < said.size or said.size % 8:
                raise ValueError("the message ends within a session")
            if said.size < exported_size(said) or not exported_is_sound(said):
                raise ValueError("a session is described otherwise than here")
            if exported_fds(said) > fd_count - fds_at:
                raise ValueError("descriptors are missing")
            self.parts[self.count].said = said
            self.parts[self.count].fds = fds.data.as_ints + fds_at
            self.count += 1
            fds_at += exported_fds(said)
            at += said.size
        if fds_at != fd_count:
            raise ValueError("more descriptors than sessions have")
        qsort(self.parts, self.count, sizeof(part_t), compare_parts)
        return 0

    cdef int assign_parts(self, Arrivals arrivals) except -1:
        """To the worker that has its sockets; the others in turn."""
        cdef uint32_t i, next_one = 0
        arrivals.index()
        for i in range(self.count):
            if self.parts[i].said.bits & EXPORTED_AHEAD:
                self.parts[i].arrival = arrivals.find(self.parts[i].said.id)
                if self.parts[i].arrival == NULL:
                    raise ValueError("a socket that went ahead did not arrive")
                self.parts[i].worker = self.parts[i].arrival.worker
            else:
                self.parts[i].worker = next_one % self.worker_count
                next_one += 1
        return 0

    cdef int fill_batch(self, uint32_t worker) except -1:
        cdef imported_sessions_t *batch = <imported_sessions_t *>zeroed(1, sizeof(imported_sessions_t))
        cdef size_t length = 0
        cdef uint32_t i, count = 0
        self.batches[worker] = batch
        for i in range(self.count):
            if self.parts[i].worker == worker:
                length += self.parts[i].said.size
                count += 1
        batch.entries = <imported_session_t *>zeroed(count, sizeof(imported_session_t))
        batch.bytes = <uint8_t *>zeroed(length, 1)
        length = 0
        for i in range(self.count):
            if self.parts[i].worker == worker:
                memcpy(batch.bytes + length, self.parts[i].said, self.parts[i].said.size)
                self.fill_entry(
                    &batch.entries[batch.count], <exported_session_t *>(batch.bytes + length), &self.parts[i]
                )
                length += self.parts[i].said.size
                batch.count += 1
        return 0

    cdef int fill_numbers(self, dict listeners, dict pools, dict backends) except -1:
        cdef ListenerLive listener
        cdef PoolLive pool
        cdef BackendLive backend
        numbered_init(&self.listeners, listeners)
        numbered_init(&self.pools, pools)
        numbered_init(&self.backends, backends)
        for number, listener in listeners.items():
            self.listeners.places[<size_t>number] = &listener.live
        for number, pool in pools.items():
            self.pools.places[<size_t>number] = &pool.live
        for number, backend in backends.items():
            self.backends.places[<size_t>number] = &backend.live
        return 0

    cdef int fill_entry(self, imported_session_t *entry, exported_session_t *said, const part_t *part) except -1:
        cdef uint32_t i
        entry.said = said
        entry.listener = <listener_live_t *>numbered_find(&self.listeners, said.listener_id)
        entry.pool = <pool_live_t *>numbered_find(&self.pools, said.pool_slot)
        entry.backend = <backend_live_t *>numbered_find(&self.backends, said.backend_id)
        if entry.listener == NULL or entry.pool == NULL or (entry.backend == NULL and said.backend_id):
            raise ValueError("a session belongs to something that was not named")
        for i in range(exported_fds(said)):
            entry.fds[i] = part.fds[i]
        if part.arrival != NULL:
            entry.ahead = True
            entry.index = part.arrival.index
        return self.name_tried(said)

    cdef int name_tried(self, exported_session_t *said) noexcept:
        """The numbers of backends become this process's."""
        cdef uint8_t *ids = <uint8_t *>said + sizeof(exported_session_t) + said.preface_bytes
        cdef backend_live_t *backend
        cdef uint32_t i, number
        for i in range(said.tried_count):
            memcpy(&number, ids + i * sizeof(number), sizeof(number))        # not aligned: a preface may end anywhere
            backend = <backend_live_t *>numbered_find(&self.backends, number)
            number = backend.id if backend != NULL else 0
            memcpy(ids + i * sizeof(number), &number, sizeof(number))
        return 0

    cdef void reserve(self, plane_t *plane) noexcept:
        cdef uint32_t i, worker
        for worker in range(self.worker_count):
            for i in range(self.batches[worker].count):
                imported_reserve(plane, &self.batches[worker].entries[i])

    cdef imported_sessions_t *give(self, uint32_t worker) noexcept:
        """To be called once. The worker owns it, and the descriptors."""
        cdef imported_sessions_t *given = self.batches[worker]
        self.batches[worker] = NULL
        return given


@final
cdef class TcpMoves:
    """What a data plane does of it; it outlives this."""

    @staticmethod
    cdef TcpMoves of(plane_t *plane):
        cdef TcpMoves self = TcpMoves.__new__(TcpMoves)
        self.plane = plane
        return self

    cdef bint all_reached(self, size_t offset, uint64_t version) noexcept:
        """Whether that field of every worker has this value."""
        cdef uint32_t i
        for i in range(self.plane.worker_count):
            if published_load_u64(<uint64_t *>(<char *>self.plane.workers[i] + offset)) != version:
                return False
        return True

    cdef void wake(self) noexcept:
        cdef uint32_t i
        for i in range(self.plane.worker_count):
            worker_wake(self.plane.workers[i])

    @property
    def epoch(self):
        """How many processes took over from each other before this one, modulo 2**16: ids of sessions begin with it.
        Set it before a snapshot is published."""
        return self.plane.epoch

    @epoch.setter
    def epoch(self, uint64_t epoch):
        self.plane.epoch = epoch & 0xFFFF

    def hold(self, bint held):
        """Have workers accept no TCP clients, or accept them again."""
        published_store_u32(&self.plane.tcp_held, held)
        published_store_u64(&self.plane.held_version, self.plane.held_version + 1)
        self.wake()

    def is_held(self):
        """Whether all workers go by the last `hold`, and what one of them accepted before is with its worker."""
        return self.all_reached(<size_t>&(<worker_t *>NULL).held_version, self.plane.held_version)

    def precopy(self, int fd):
        """Have every worker send the sockets of its sessions ahead, by this unix socket of messages."""
        self.plane.precopy_fd = fd
        published_store_u64(&self.plane.precopy_version, self.plane.precopy_version + 1)
        self.wake()

    def precopied(self):
        return self.all_reached(<size_t>&(<worker_t *>NULL).precopied_version, self.plane.precopy_version)

    def take_arrivals(self, Arrivals arrivals not None):
        """Give the workers sockets that another process has sent ahead. Once."""
        cdef uint32_t i
        self.arrivals = arrivals                       # which a worker may read at any time
        arrivals.given = True
        for i in range(self.plane.worker_count):
            published_store_pointer(<void **>&self.plane.workers[i].arriving, &arrivals.batches[i])
        self.wake()

    def arrivals_taken(self):
        cdef uint32_t i
        for i in range(self.plane.worker_count):
            if published_load_pointer(<void **>&self.plane.workers[i].arriving) != NULL:
                return False
        return True

    def end_arrivals(self, bint reset):
        """Those of which no session has become, after `start`, are closed; `reset`: nobody else has them."""
        published_store_u32(&self.plane.arrivals_reset, reset)
        published_store_u64(&self.plane.arrived_version, self.plane.arrived_version + 1)
        self.wake()

    def freeze(self):
        """Have every worker describe its TCP sessions, for `take_frozen`, and then wait for `settle`. TCP is held."""
        published_store_u64(&self.plane.freeze_version, self.plane.freeze_version + 1)
        self.wake()

    def is_frozen(self):
        return self.all_reached(<size_t>&(<worker_t *>NULL).frozen_version, self.plane.freeze_version)

    def take_frozen(self):
        """(records, descriptors, number of sessions), once `is_frozen`; the descriptors stay the workers'. MemoryError
        when a worker could not describe all of its sessions."""
        cdef exports_t *exports
        cdef array fds = array("i")
        cdef uint32_t i, count = 0
        parts = []
        for i in range(self.plane.worker_count):
            exports = &self.plane.workers[i].exports
            if exports.short_of_memory:
                raise MemoryError()
            if exports.count:
                parts.append((<char *>exports.bytes)[:exports.length])
                extend_buffer(fds, <char *>exports.fds, exports.fd_count)
                count += exports.count
        return b"".join(parts), fds, count

    def settle(self, int fate):
        """Have workers go on; `fate` is a `settled_t`."""
        published_store_u32(&self.plane.settled_as, fate)
        published_store_u64(&self.plane.settled_version, self.plane.freeze_version)
        self.wake()

    def is_settled(self):
        return self.all_reached(<size_t>&(<worker_t *>NULL).settled_version, self.plane.freeze_version)

    def start(self, TcpImports sessions not None):
        """Have the workers go on with these sessions, which own their descriptors from here on. Once."""
        cdef uint32_t i
        sessions.reserve(self.plane)
        for i in range(self.plane.worker_count):
            published_store_pointer(<void **>&self.plane.workers[i].imports, sessions.give(i))
        self.wake()

    def imported_ns(self):
        """When the workers had taken the sessions of `start`, in monotonic time; 0: not yet, or none."""
        cdef uint64_t last = 0, i
        for i in range(self.plane.worker_count):
            if published_load_pointer(<void **>&self.plane.workers[i].imports) != NULL:
                return 0
            last = max(last, published_load_u64(&self.plane.workers[i].imported_ns))
        return last
