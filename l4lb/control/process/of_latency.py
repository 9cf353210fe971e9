"""How long the backends of a pool take, as the admin API shows it, and which of them are slow. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low
from typing import Literal

from l4lb.control.reporting import part_shapes
from l4lb.model.stats import BackendLatency, Latency

# A backend is slow when its median is so many times the pool's, with so many samples at least, and above what nobody
# minds. Medians are interpolated within buckets of a factor of two, so that half as much may be chance.
SLOW_TIMES = 5
SLOW_SAMPLES = 50
SLOW_S = 0.02

_JUDGED: tuple[tuple[Literal["connect", "first_byte"], str], ...] = (
    ("first_byte", "first byte"),
    ("connect", "connect"),
)


class Latencies:
    """Of one pool's backends, by id; one that is missing is not measured. `slow`: in words, of those that are."""

    def __init__(self, known: Mapping[str, BackendLatency]) -> None:
        self._known = known
        self.slow = slow(known)

    def of(self, backend: str) -> part_shapes.BackendLatency | None:
        if (known := self._known.get(backend)) is None:
            return None
        return {
            "connect": _shape(known.connect),
            "first_byte": _shape(known.first_byte),
            "session": _shape(known.session),
        }


def _shape(latency: Latency) -> part_shapes.Latency:
    return {
        "count": latency.count,
        "mean_s": latency.mean_s,
        "p50_s": latency.p50_s,
        "p90_s": latency.p90_s,
        "p99_s": latency.p99_s,
    }


def slow(known: Mapping[str, BackendLatency]) -> dict[str, str]:
    """In words, of the backends that take much longer than the pool's median one; of two, the faster one."""
    found: dict[str, str] = {}
    for kind, words in _JUDGED:
        measured = {id_: getattr(one, kind) for id_, one in known.items()}
        medians = {id_: one.p50_s for id_, one in measured.items() if one.count >= SLOW_SAMPLES}
        usual_s = median_low(medians.values()) if medians else 0.0
        for id_, p50_s in medians.items():
            if p50_s >= SLOW_S and p50_s >= SLOW_TIMES * usual_s:
                found.setdefault(id_, f"{words} p50 is {_text(p50_s)}, {p50_s / usual_s:.0f} times its pool's")
    return found


def _text(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
