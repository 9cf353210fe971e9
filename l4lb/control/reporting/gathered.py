"""Everything that metrics report, read at one moment. Control thread only; the result is plain data that any thread may
format."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from l4lb.config import Listener
from l4lb.control.health.monitor import Monitor
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.reporting.access_log import AccessLog, Counts
from l4lb.control.reporting.usage import ProcessUsage, Usage
from l4lb.control.state.fleet import FleetState
from l4lb.control.state.history import History
from l4lb.control.state.state import BackendState, DiscoveryState, PoolState, State
from l4lb.model.forwarder import Counting
from l4lb.model.hooks import CloseCounts
from l4lb.model.states import Health, ProcessState
from l4lb.model.stats import (
    BackendStats,
    BackendTimes,
    Histogram,
    ListenerStats,
    PoolStats,
    Stats,
    WorkerStats,
)

BUSY_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class BackendGathered:
    """`checks` are (passed, failed); `times` are None where the pool is larger than `backend_histograms`, and where
    nobody measures them; `max_sessions` 0: no limit."""

    pool: str
    backend: str
    stats: BackendStats
    up: bool
    usable: bool
    weight: float
    checks: tuple[int, int]
    times: BackendTimes | None = None
    max_sessions: int = 0


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """This node's part of them; 0: no limit."""

    max_sessions: int
    session_rate: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """`discovery` by pool, of those that have a source; `busy` is the part of its time that each worker was busy
    lately; `reloads` are (applied, refused); `refusing` are listeners that refuse clients for now, by when_no_backend;
    `limits` are by listener, `queue_sizes` by pool; `at`: when, in seconds since 1970."""

    stats: Stats
    listeners: dict[str, ListenerStats]
    backends: tuple[BackendGathered, ...]
    queues: dict[str, int]
    discovery: dict[str, DiscoveryState]
    busy: tuple[float, ...]
    health_lag_s: float
    check_time: Histogram
    checks_skipped: int
    reloads: tuple[int, int]
    snapshot_version: int
    bans: int
    draining: bool
    access_log: Counts
    hook_records: CloseCounts | None = None
    usage: Usage | None = None
    refusing: frozenset[str] = frozenset()
    fleet: FleetState | None = None
    limits: dict[str, ListenerLimits] = field(default_factory=dict)
    queue_sizes: dict[str, int] = field(default_factory=dict)
    at: float = field(default_factory=time.time)


class Delivering(Protocol):
    """Hooks that get records."""

    @property
    def counts(self) -> CloseCounts | None:
        """None: there never was one."""


class Busy:
    """How busy workers were over the last `BUSY_WINDOW_S`, from samples of their counters."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, tuple[int, ...]]] = deque()

    def sample(self, workers: Sequence[WorkerStats], now: float) -> None:
        """Called about once a second; `now` in seconds, monotonic."""
        self._samples.append((now, tuple(worker.busy_ns for worker in workers)))
        while now - self._samples[0][0] > BUSY_WINDOW_S:
            self._samples.popleft()

    def ratios(self, workers: Sequence[WorkerStats], now: float) -> tuple[float, ...]:
        """For each worker, between 0 and 1; 0 before there is a sample to compare with."""
        if not self._samples or now <= self._samples[0][0]:
            return (0.0,) * len(workers)
        since, before = self._samples[0]
        spent = (worker.busy_ns - busy_ns for worker, busy_ns in zip(workers, before, strict=True))
        return tuple(min(max(ns / 1e9 / (now - since), 0.0), 1.0) for ns in spent)


@dataclass(slots=True)
class Sources:
    """Where everything is counted."""

    state: State
    reconciler: Reconciler
    monitor: Monitor
    forwarder: Counting
    access_log: AccessLog
    closing: Delivering
    busy: Busy = field(default_factory=Busy)
    usage: ProcessUsage = field(default_factory=ProcessUsage)
    history: History = field(init=False)
    reloads_applied: int = 0
    reloads_refused: int = 0

    def __post_init__(self) -> None:
        self.history = History(self.state.started_at)

    def sample(self, stats: Stats) -> None:
        """Once a second; `stats` may be without pools."""
        now = time.monotonic()
        self.busy.sample(stats.workers, now)
        self.usage.sample()
        if self.history.is_due(now):
            self.history.sample(self.forwarder.stats(), now)

    def gather(self) -> Gathered:
        stats, state = self.forwarder.stats(), self.state
        counted = {name: stats.listeners.get(name, ListenerStats()) for name in state.listeners}
        checkers = self.monitor.checkers
        return Gathered(
            stats,
            {**counted, **stats.listeners},
            tuple(self._backends(stats)),
            {name: stats.pools.get(name, PoolStats()).waiting for name in state.pools},
            {name: replace(pool.discovery) for name, pool in state.pools.items() if pool.discovery is not None},
            self.busy.ratios(stats.workers, time.monotonic()),
            max((checker.lag_s for checker in checkers), default=0.0),
            self.monitor.check_time.histogram,
            sum(checker.skipped for checker in checkers),
            (self.reloads_applied, self.reloads_refused),
            self.reconciler.version,
            state.bans,
            state.process is ProcessState.DRAINING,
            self.access_log.counts,
            self.closing.counts,
            self.usage.read(),
            frozenset(state.refusing_now),
            replace(state.fleet, nodes=dict(state.fleet.nodes)) if state.fleet is not None else None,
            {name: self._limits(one.config) for name, one in state.listeners.items()},
            {name: one.config.queue_size for name, one in state.pools.items()},
        )

    def _limits(self, listener: Listener) -> ListenerLimits:
        share = self.state.share
        return ListenerLimits(share.of_count(listener.max_sessions), share.of_rate(listener.session_rate))

    def _times(self, pool: PoolState) -> dict[str, BackendTimes]:
        if len(pool.backends) > self.state.config.global_.backend_histograms:
            return {}
        return self.forwarder.times(pool.name)

    def _backends(self, stats: Stats) -> list[BackendGathered]:
        found = []
        for name, pool in self.state.pools.items():
            counted = stats.pools.get(name, PoolStats()).backends
            usable, times = set(pool.usable), self._times(pool)
            for id_, backend in pool.backends.items():
                stats_ = counted.get(id_, BackendStats())
                found.append(_backend(name, backend, stats_, id_ in usable, times.get(id_)))
        return found


def _backend(
    pool: str, state: BackendState, stats: BackendStats, usable: bool, times: BackendTimes | None
) -> BackendGathered:
    checks, up = (state.checks_passed, state.checks_failed), state.observed is Health.UP
    return BackendGathered(pool, state.id, stats, up, usable, state.effective_weight, checks, times, state.max_sessions)
