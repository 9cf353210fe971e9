# What a process has counted, and what is used up of limits, on its way to the process that takes over. Used by
# `l4lb.engine` alone, on the control thread.
"""Counts that go on in another process; see `l4lb.engine.tcp_migration` for the interface to use."""

from cython cimport final
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from l4lb._dataplane.admission.known_sources cimport (
    exported_source_t, exported_sources_t, sources_export, sources_import,
)
from l4lb._dataplane.base.linux cimport clock_now_ns, counter_read, published_store_u64, shared_store
from l4lb._dataplane.base.types cimport backend_counters_t, limits_t, listener_counters_t
from l4lb._dataplane.base.worker_types cimport plane_t, worker_counters_t
from l4lb._native.convert cimport counters_add_before
from l4lb._native.snapshots cimport BackendLive, ListenerLive


def export_backend(BackendLive live not None):
    """All that it has counted, for `import_backend` of another process."""
    cdef backend_counters_t total
    live.total(&total)
    return (<char *>&total)[:sizeof(total)]


def import_backend(BackendLive live not None, bytes exported not None):
    """Begin from those counts. ValueError for what are none."""
    counters_add_before(<void **>live.live.counters, live.blocks, exported, sizeof(backend_counters_t))


def export_listener(ListenerLive live not None):
    """The same."""
    cdef listener_counters_t total
    live.total(&total)
    return (<char *>&total)[:sizeof(total)]


def import_listener(ListenerLive live not None, bytes exported not None):
    counters_add_before(<void **>live.live.counters, live.blocks, exported, sizeof(listener_counters_t))


def export_limits(ListenerLive live not None):
    """Its rates, and what of them is used up, for `import_limits` of another process."""
    return (<char *>&live.live.limits)[:sizeof(limits_t)]


def import_limits(ListenerLive live not None, bytes exported not None, bint rates):
    """What is used up there is used up here; `rates`: the rates too. ValueError for what are no limits."""
    cdef limits_t limits
    cdef int direction
    if len(exported) != sizeof(limits_t):
        raise ValueError("no limits")
    memcpy(&limits, <char *>exported, sizeof(limits))
    if rates:
        limits_copy(&live.live.limits, &limits)
    for direction in range(2):
        shared_store(&live.live.limits.total_paid_until_ns[direction], limits.total_paid_until_ns[direction])
    shared_store(&live.live.limits.sessions_paid_until_ns, limits.sessions_paid_until_ns)


cdef void limits_copy(limits_t *limits, const limits_t *other) noexcept:
    """Sessions may have them already."""
    cdef size_t field
    for field in range(sizeof(limits_t) // sizeof(uint64_t)):
        published_store_u64(<uint64_t *>limits + field, (<const uint64_t *>other)[field])


@final
cdef class Counts:
    """What a data plane has counted besides; it outlives this."""

    @staticmethod
    cdef Counts of(plane_t *plane):
        cdef Counts self = Counts.__new__(Counts)
        self.plane = plane
        return self

    def export_sources(self):
        """What is known of sources, for `import_sources` of another process."""
        cdef exported_sources_t exported
        cdef bint complete
        with nogil:
            complete = sources_export(&self.plane.sources, &exported, clock_now_ns())
        try:
            if not complete:
                raise MemoryError()
            return (<char *>exported.entries)[:exported.count * sizeof(exported_source_t)]
        finally:
            free(exported.entries)

    def import_sources(self, bytes exported not None, dict listeners not None):
        """`listeners`: that process's numbers of those that are here too, and theirs. ValueError for what is none."""
        cdef exported_source_t known
        cdef size_t at
        if len(exported) % sizeof(exported_source_t):
            raise ValueError("no sources")
        for at in range(0, len(exported), sizeof(exported_source_t)):
            memcpy(&known, <char *>exported + at, sizeof(known))
            number = listeners.get(known.key.listener_id)
            if number is not None:
                known.key.listener_id = number
                sources_import(&self.plane.sources, &known, clock_now_ns())

    def export_counters(self):
        """What all workers together have counted, for `import_counters` of another process."""
        cdef worker_counters_t total = self.plane.before
        cdef uint64_t *sums = <uint64_t *>&total
        cdef size_t field
        cdef uint32_t i
        for i in range(self.plane.worker_count):
            for field in range(sizeof(total) // sizeof(uint64_t)):
                sums[field] += counter_read(<uint64_t *>&self.plane.workers[i].counters + field)
        return (<char *>&total)[:sizeof(total)]

    def import_counters(self, bytes exported not None):
        """They count as the first worker's, but for what says something about that process alone. ValueError for what
        is none."""
        if len(exported) != sizeof(worker_counters_t):
            raise ValueError("no counters")
        memcpy(&self.plane.before, <char *>exported, sizeof(worker_counters_t))
        self.plane.before.busy_ns = self.plane.before.turns = self.plane.before.records_dropped = 0
