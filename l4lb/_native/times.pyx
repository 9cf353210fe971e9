# How long backends take, as workers count it, on its way to Python and to the process that takes over. Used by
# `l4lb.engine` alone, on the control thread.
"""Histograms of backends; see `l4lb.engine.pools` for the interface to use."""

from cython cimport final
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memset

from l4lb._dataplane.base.enums cimport TIME_BUCKETS
from l4lb._dataplane.base.types cimport backend_times_t, times_t
from l4lb._dataplane.resources.stats cimport counters_total
from l4lb._native.convert cimport counters_add_before
from l4lb._native.snapshots cimport BackendLive

from l4lb._native.reports import BackendLatencyCounters, BackendTimeCounters, LatencyCounters

cdef double FIRST_BOUND_S = 2.0 ** -12
BOUNDS_S = [FIRST_BOUND_S * 2 ** i for i in range(<int>TIME_BUCKETS - 1)]
NOTHING = LatencyCounters(0, 0, 0.0, 0.0, 0.0)


@final
cdef class Mark:
    """What the workers of this process had counted at one moment."""

    cdef backend_times_t times


cdef void times_total(BackendLive live, uint32_t blocks, backend_times_t *total) noexcept:
    counters_total(<void **>live.live.times, blocks, total, sizeof(backend_times_t))


def mark(BackendLive live not None, Mark before):
    """`before`, when nothing was counted since: marks of an idle backend cost no memory."""
    cdef Mark now = Mark.__new__(Mark)
    times_total(live, live.blocks - 1, &now.times)
    if before is not None and memcmp(&before.times, &now.times, sizeof(backend_times_t)) == 0:
        return before
    return now


def latency_since(BackendLive live not None, Mark mark):
    """`BackendLatencyCounters` of what its workers have counted since; None: since the process, or the backend,
    began."""
    cdef backend_times_t total
    cdef const uint64_t *before
    cdef uint64_t *sums = <uint64_t *>&total
    cdef size_t field
    times_total(live, live.blocks - 1, &total)
    if mark is not None:
        before = <const uint64_t *>&mark.times
        for field in range(sizeof(total) // sizeof(uint64_t)):
            sums[field] -= before[field]
    return BackendLatencyCounters(
        latency_report(&total.connect), latency_report(&total.first_byte), latency_report(&total.session)
    )


cdef object latency_report(const times_t *times):
    cdef uint64_t count = 0
    cdef int i
    for i in range(<int>TIME_BUCKETS):
        count += times.buckets[i]
    if count == 0:
        return NOTHING
    return LatencyCounters(
        count, times.sum_us, quantile(times, 0.5 * count), quantile(times, 0.9 * count), quantile(times, 0.99 * count)
    )


cdef double quantile(const times_t *times, double rank) noexcept:
    """In seconds; interpolated, as if durations were spread evenly over their bucket. What is above the last bound is
    reported as that."""
    cdef double below = 0, lower = 0, upper = FIRST_BOUND_S
    cdef int i
    for i in range(<int>TIME_BUCKETS - 1):
        if below + times.buckets[i] >= rank:
            return lower + (upper - lower) * (rank - below) / times.buckets[i]
        below += times.buckets[i]
        lower = upper
        upper *= 2
    return lower


def counted(BackendLive live not None):
    """All of it, with what the processes before this one had counted."""
    cdef backend_times_t total
    times_total(live, live.blocks, &total)
    return times_report(&total)


cdef list buckets_of(times_t *times):
    return [times.buckets[i] for i in range(<int>TIME_BUCKETS)]


cdef object times_report(backend_times_t *times):
    return BackendTimeCounters(
        connect=buckets_of(&times.connect),
        connect_sum_us=times.connect.sum_us,
        first_byte=buckets_of(&times.first_byte),
        first_byte_sum_us=times.first_byte.sum_us,
        session=buckets_of(&times.session),
        session_sum_us=times.session.sum_us,
    )


def export_times(BackendLive live not None):
    """All that it has counted, for `import_times` of another process; nothing, when that is nothing."""
    cdef backend_times_t total, nothing
    memset(&nothing, 0, sizeof(nothing))
    times_total(live, live.blocks, &total)
    if memcmp(&total, &nothing, sizeof(total)) == 0:
        return b""
    return (<char *>&total)[:sizeof(total)]


def import_times(BackendLive live not None, bytes exported not None):
    """Begin from those counts. ValueError for what are none."""
    counters_add_before(<void **>live.live.times, live.blocks, exported, sizeof(backend_times_t))
