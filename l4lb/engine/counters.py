"""What the data plane counts, as `l4lb.model.stats` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from l4lb import _fastpath
from l4lb._native import snapshots
from l4lb.model.states import CloseReason, ConnectFailure, DropReason, PathError, Shortage
from l4lb.model.stats import PROXY_REFUSALS, BackendStats, Histogram, ListenerStats, WorkerStats

N = TypeVar("N", bound=str)
_CLOSE_REASONS = tuple(CloseReason)
_DROP_REASONS = tuple(DropReason)
_CONNECT_FAILURES = tuple(ConnectFailure)
_PATH_ERRORS = tuple(PathError)


def _named(names: Sequence[N], counts: Sequence[int]) -> dict[N, int]:
    """Those that are not 0."""
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def shortages(plane: _fastpath.DataPlane) -> dict[Shortage, int]:
    return _named(tuple(Shortage), plane.shortages())


def _histogram(counts: Sequence[int], sum_us: int) -> Histogram:
    return Histogram(tuple(_fastpath.HISTOGRAM_BOUNDS_S), tuple(counts), sum_us / 1e6)


def backend_stats(live: snapshots.BackendLive) -> BackendStats:
    active, total, up, down, early_resets, failures, sent, answered, misfits, said = live.stats()
    failed, path_errors = _named(_CONNECT_FAILURES, failures), _named(_PATH_ERRORS, said)
    return BackendStats(active, total, up, down, early_resets, failed, sent, answered, misfits, path_errors)


def worker_stats(plane: _fastpath.DataPlane, index: int) -> WorkerStats:
    stats = plane.worker_stats(index)
    return WorkerStats(*stats[:10], _histogram(stats[10], stats[11]))


def listener_stats(live: snapshots.ListenerLive, addresses: tuple[str, ...], kernel_drops: int) -> ListenerStats:
    """`kernel_drops`: of its sockets, which the workers have not counted."""
    active, total, closed, buckets, sum_us, refused, drops = live.stats()
    dropped = _named(_DROP_REASONS, drops)
    if kernel_drops:
        dropped[DropReason.KERNEL] = dropped.get(DropReason.KERNEL, 0) + kernel_drops
    reasons, refusals = _named(_CLOSE_REASONS, closed), _named(PROXY_REFUSALS, refused)
    return ListenerStats(addresses, active, total, reasons, _histogram(buckets, sum_us), dropped, refusals)
