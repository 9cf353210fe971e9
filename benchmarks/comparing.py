"""Interleaved rounds: in each, every peer does the same work in turn, and l4lb is set against the others of that round.

Noise of the machine hits all peers of a round alike, so the median of the rounds' ratios is far steadier than the
ratio of medians. The ratio that counts is the one to the better peer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.machines import cpu_seconds
from benchmarks.peers import Peer

Figures = dict[str, float]  # of one peer in one round, by metric


@dataclass(frozen=True)
class Bar:
    """What a metric's ratio to the better peer should be: at most, or at least, `limit`."""

    metric: str
    limit: float
    higher_is_better: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.higher_is_better else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.higher_is_better else '≤'} {self.limit:g}"


@dataclass
class Comparison:
    """The rounds of one kind of work."""

    title: str
    bars: tuple[Bar, ...]
    rounds: list[dict[str, Figures]] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        return list(self.rounds[0]["l4lb"])

    @property
    def names(self) -> list[str]:
        return list(self.rounds[0])

    def median(self, name: str, metric: str) -> float:
        return statistics.median(figures[name][metric] for figures in self.rounds)

    def total(self, name: str, metric: str) -> float:
        return sum(figures[name][metric] for figures in self.rounds)

    def ratio(self, name: str, metric: str) -> float:
        """The median over the rounds of l4lb's figure divided by that of `name`."""
        pairs = [(figures["l4lb"][metric], figures[name][metric]) for figures in self.rounds]
        return statistics.median(ours / theirs if theirs else 1.0 for ours, theirs in pairs)

    def ratio_to_better(self, bar: Bar) -> float:
        """The ratio to whichever peer makes it look worse."""
        ratios = [self.ratio(name, bar.metric) for name in self.names if name != "l4lb"]
        return min(ratios) if bar.higher_is_better else max(ratios)


def run_round(comparison: Comparison, running: list[Peer], work: Callable[[Peer], tuple[float, Figures]]) -> None:
    """One round. `work` drives a peer and returns how many units of work it did, and other figures that it saw.

    The CPU time of the peer's process for a unit, in microseconds, is added as "CPU us".
    """
    turn = len(comparison.rounds) % len(running)
    figures: dict[str, Figures] = {}
    for one in running[turn:] + running[:turn]:  # each is first in turn
        before = cpu_seconds(one.pid)
        units, seen = work(one)
        figures[one.name] = {"CPU us": (cpu_seconds(one.pid) - before) / units * 1e6, **seen}
    comparison.rounds.append({one.name: figures[one.name] for one in running})
