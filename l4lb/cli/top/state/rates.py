"""Turns successive readings of counters into rates and their history. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HISTORY = 120  # rates kept for each counter
COUNTERS = ("sessions_total", "bytes_up", "bytes_down")
OF_WORKERS = ("busy_s", "spliced_bytes")
BARS = "▁▂▃▄▅▆▇█"

Key = tuple[str, ...]  # ("total",), ("listener", name), ("pool", name), ("backend", pool, id), ("worker", number)


def spark(values: Sequence[float], width: int) -> str:
    """The last `width` of `values` as bars, the highest one full; spaces where there are no values yet."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    bars = "".join(BARS[min(int(value / top * len(BARS)), len(BARS) - 1)] if top > 0 else BARS[0] for value in shown)
    return bars.rjust(width)


def counters_of(status: Mapping[str, Any]) -> Iterator[tuple[Key, dict[str, float]]]:
    """Each item of a status with its counters; ``total`` sums all pools."""
    pools = status["pools"]
    yield ("total",), {name: sum(pool[name] for pool in pools) for name in COUNTERS}
    for listener in status["listeners"]:
        yield ("listener", listener["name"]), {"sessions_total": listener["sessions_total"], **_traffic(listener)}
    for pool in pools:
        yield ("pool", pool["name"]), {name: pool[name] for name in COUNTERS}
        for one in pool["backends"]:
            yield ("backend", pool["name"], one["id"]), {name: one[name] for name in COUNTERS}
    for worker in status["workers"]:
        yield ("worker", str(worker["worker"])), {name: worker[name] for name in OF_WORKERS}


def _traffic(listener: Mapping[str, Any]) -> dict[str, float]:
    """What the kernel counts of one that it forwards. Answers, where they do not come by here, are missing."""
    if not listener["in_kernel"]:
        return {}
    return {name: count for name, count in listener["in_kernel"]["traffic"].items() if count is not None}


@dataclass(slots=True)
class _Series:
    counters: Mapping[str, float]
    rates: dict[str, deque[float]] = field(default_factory=dict)


class Rates:
    """Rates per second. They start again when another process answers, and for every new item."""

    def __init__(self) -> None:
        self._pid = 0
        self._at = 0.0
        self._series: dict[Key, _Series] = {}

    def feed(self, status: Mapping[str, Any], at: float) -> None:
        """Add a status that was read at `at`, in seconds of any clock."""
        known = self._series if status["pid"] == self._pid else {}
        elapsed = at - self._at
        self._pid, self._at = status["pid"], at
        self._series = {}
        for key, counters in counters_of(status):
            series = known.get(key) or _Series(counters)
            if elapsed > 0 and key in known:
                _note(series, counters, elapsed)
            series.counters = counters
            self._series[key] = series

    def now(self, key: Key, counter: str) -> float:
        history = self.history(key, counter)
        return history[-1] if history else 0.0

    def knows(self, key: Key, counter: str) -> bool:
        """Whether it is counted."""
        series = self._series.get(key)
        return series is not None and counter in series.counters

    def history(self, key: Key, counter: str) -> Sequence[float]:
        series = self._series.get(key)
        return series.rates.get(counter, ()) if series else ()


def _note(series: _Series, counters: Mapping[str, float], elapsed_s: float) -> None:
    for name, value in counters.items():
        grown = max(0, value - series.counters.get(name, value))  # less: a backend that was removed and came back
        series.rates.setdefault(name, deque(maxlen=HISTORY)).append(grown / elapsed_s)
