"""What was counted in the last five minutes, sample by sample, for plots that begin before somebody looks. Control loop
only.

Counters are kept as they were, not rates: who reads them divides by `uptime_s`. Memory is bounded: SAMPLES of four
numbers for each of at most POOLS_MAX pools, two megabytes with a thousand of them.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from l4lb.model.stats import PoolStats, Stats

INTERVAL_S = 5.0
SAMPLES = 61  # the differences between them cover five minutes
POOLS_MAX = 1000  # that have a history of their own
COLUMNS = ("sessions_active", "sessions_total", "bytes_up", "bytes_down")
_MOST = (1 << 63) - 1  # of what a column can hold


class Series:
    """The columns of one pool, or of all together: as many samples as there were since it came, the oldest first."""

    def __init__(self) -> None:
        self._columns = {name: array("q") for name in COLUMNS}

    def add(self, values: Sequence[int]) -> None:
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(min(value, _MOST))
            del column[:-SAMPLES]

    def column(self, name: str, length: int) -> list[int | None]:
        """Its latest `length` samples; None for those of before it came."""
        known = self._columns[name]
        return [None] * (length - len(known)) + list(known[max(0, len(known) - length) :])


def _values(pools: Iterable[PoolStats]) -> tuple[int, int, int, int]:
    active = total = up = down = 0
    for pool in pools:
        active += pool.sessions_active
        total += pool.sessions_total
        up += pool.bytes_up
        down += pool.bytes_down
    return active, total, up, down


@dataclass(slots=True)
class History:
    """`started_at` is the process's start, by time.monotonic."""

    started_at: float
    at: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))  # seconds since 1970
    uptime_s: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    connects: deque[tuple[int, ...]] = field(default_factory=lambda: deque(maxlen=SAMPLES))  # see WorkerStats
    all: Series = field(default_factory=Series)
    pools: dict[str, Series] = field(default_factory=dict)
    _next: float = 0.0

    def is_due(self, now: float) -> bool:
        """Asked about once a second; `now` by time.monotonic."""
        return now >= self._next

    def sample(self, stats: Stats, now: float) -> None:
        """What is gone is forgotten."""
        self._next = now + INTERVAL_S - 0.5  # it is called a little late, each time
        self.at.append(time.time())
        self.uptime_s.append(now - self.started_at)
        counted = zip(*(worker.connect_time.counts for worker in stats.workers), strict=True)
        self.connects.append(tuple(map(sum, counted)))
        self.all.add(_values(stats.pools.values()))
        self.pools = {name: self.pools.get(name) or Series() for name in list(stats.pools)[:POOLS_MAX]}
        for name, series in self.pools.items():
            series.add(_values([stats.pools[name]]))

    def series(self, pool: str) -> Series:
        """Of all pools for an empty name, or of one, which may have none yet."""
        return self.pools.get(pool) or Series() if pool else self.all
