"""What the data plane counts, as `l4lb.model.stats` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from l4lb import _fastpath
from l4lb._native import reports, snapshots, times
from l4lb.model.hooks import HookResult
from l4lb.model.states import CloseReason, ConnectFailure, DropReason, PathError, Shortage, SourceLimit
from l4lb.model.stats import (
    PROXY_REFUSALS,
    BackendLatency,
    BackendStats,
    BackendTimes,
    Histogram,
    Latency,
    ListenerStats,
    WorkerStats,
)

N = TypeVar("N", bound=str)
_CLOSE_REASONS = tuple(CloseReason)
_DROP_REASONS = tuple(DropReason)
_CONNECT_FAILURES = tuple(ConnectFailure)
_PATH_ERRORS = tuple(PathError)
_SOURCE_LIMITS = tuple(SourceLimit)
_HOOK_RESULTS = tuple(HookResult)
_TIME_BOUNDS_S = tuple(times.BOUNDS_S)
_NO_LATENCY = Latency()


def _named(names: Sequence[N], counts: Sequence[int]) -> dict[N, int]:
    """Those that are not 0."""
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def shortages(plane: _fastpath.DataPlane) -> dict[Shortage, int]:
    return _named(tuple(Shortage), plane.shortages())


def _histogram(counts: Sequence[int], sum_us: int) -> Histogram:
    return Histogram(tuple(_fastpath.HISTOGRAM_BOUNDS_S), tuple(counts), sum_us / 1e6)


def backend_stats(live: snapshots.BackendLive) -> BackendStats:
    now = live.stats()
    return BackendStats(
        sessions_active=now.sessions_active,
        sessions_total=now.sessions_total,
        bytes_up=now.bytes_up,
        bytes_down=now.bytes_down,
        early_resets=now.early_resets,
        failed=_named(_CONNECT_FAILURES, now.connect_failures),
        datagrams_up=now.datagrams_up,
        datagrams_down=now.datagrams_down,
        source_misfits=now.source_misfits,
        path_errors=_named(_PATH_ERRORS, now.path_errors),
    )


def backend_times(live: snapshots.BackendLive) -> BackendTimes:
    now = times.counted(live)
    return BackendTimes(
        Histogram(_TIME_BOUNDS_S, tuple(now.connect), now.connect_sum_us / 1e6),
        Histogram(_TIME_BOUNDS_S, tuple(now.first_byte), now.first_byte_sum_us / 1e6),
        Histogram(_TIME_BOUNDS_S, tuple(now.session), now.session_sum_us / 1e6),
    )


def backend_latency(live: snapshots.BackendLive, since: times.Mark | None) -> BackendLatency:
    return BackendLatency(*map(_latency, times.latency_since(live, since)))


def _latency(now: reports.LatencyCounters) -> Latency:
    if not now.samples:
        return _NO_LATENCY
    mean_s = now.sum_us / 1e6 / now.samples
    return Latency(now.samples, *(round(one, 6) for one in (mean_s, now.p50_s, now.p90_s, now.p99_s)))


def worker_stats(plane: _fastpath.DataPlane, index: int) -> WorkerStats:
    now = plane.worker_stats(index)
    return WorkerStats(
        sessions_active=now.sessions_active,
        pipes=now.pipes,
        chunks=now.chunks,
        busy_ns=now.busy_ns,
        turns=now.turns,
        spliced_bytes=now.spliced_bytes,
        accept_pauses=now.accept_pauses,
        handed_over=now.handed_over,
        records_dropped=now.records_dropped,
        late_answers=now.late_answers,
        connect_time=_histogram(now.connect_time, now.connect_time_sum_us),
        hook_time=_histogram(now.hook_time, now.hook_time_sum_us),
    )


def listener_stats(live: snapshots.ListenerLive, addresses: tuple[str, ...], kernel_drops: int) -> ListenerStats:
    """`kernel_drops`: of its sockets, which the workers have not counted."""
    now = live.stats()
    dropped = _named(_DROP_REASONS, now.dropped)
    if kernel_drops:
        dropped[DropReason.KERNEL] = dropped.get(DropReason.KERNEL, 0) + kernel_drops
    return ListenerStats(
        addresses=addresses,
        sessions_active=now.sessions_active,
        sessions_total=now.sessions_total,
        closed=_named(_CLOSE_REASONS, now.closed),
        session_time=_histogram(now.session_time, now.session_time_sum_us),
        dropped=dropped,
        proxy_refused=_named(PROXY_REFUSALS, now.proxy_refused),
        source_limited=_named(_SOURCE_LIMITS, now.source_limited),
        hooked=_named(_HOOK_RESULTS, now.hooked),
    )
