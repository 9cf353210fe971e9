"""Interleaved rounds: in each, every peer does the same work in turn, and l4lb is set against the others of that round.

Noise of the machine hits all peers of a round alike, so the median of the rounds' ratios is far steadier than the
ratio of medians. The ratio that counts is the one to the better peer.

On loopback, chance decides which process is charged for the work of the network stack on a packet. So next to the CPU
time of a peer's own process stands what all take together: client, peer, backend and the kernel's softirq threads, less
what the same work takes over a direct connection in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.machines import cpu_seconds, cpu_seconds_of_softirqs, cpu_seconds_of_tree, cpu_seconds_spent_here
from benchmarks.peers import DIRECT, FLOOR, Peer

Figures = dict[str, float]  # of one peer in one round, by metric
OWN, TOTAL, ADDED = "CPU us", "CPU us of all", "CPU us above direct"


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
        return list(self.rounds[0][self.names[0]])

    @property
    def names(self) -> list[str]:
        return list(self.rounds[0])

    @property
    def others(self) -> list[str]:
        """Those that a bar is held against."""
        return [name for name in self.names if name not in ("l4lb", DIRECT, FLOOR)]

    def has(self, name: str, metric: str) -> bool:
        return metric in self.rounds[0][name]

    def median(self, name: str, metric: str) -> float:
        return statistics.median(figures[name][metric] for figures in self.rounds)

    def values(self, name: str, metric: str) -> list[float]:
        return [figures[name][metric] for figures in self.rounds]

    def total(self, name: str, metric: str) -> float:
        return sum(figures[name][metric] for figures in self.rounds)

    def ratios(self, of: str, name: str, metric: str) -> list[float]:
        """Of each round: the figure of `of` divided by that of `name`."""
        pairs = [(figures[of][metric], figures[name][metric]) for figures in self.rounds]
        return [ours / theirs if theirs else 1.0 for ours, theirs in pairs]

    def ratio(self, name: str, metric: str) -> float:
        """The median over the rounds of l4lb's figure divided by that of `name`."""
        return statistics.median(self.ratios("l4lb", name, metric))

    def ratio_to_better(self, bar: Bar) -> float:
        """The ratio to whichever peer makes it look worse."""
        ratios = [self.ratio(name, bar.metric) for name in self.others]
        return min(ratios) if bar.higher_is_better else max(ratios)


def _measure(one: Peer, work: Callable[[Peer], tuple[float, Figures]]) -> Figures:
    """What `work` with `one` took, in microseconds of CPU time for a unit of work, and what it saw."""

    def spent() -> tuple[float, float]:
        own = cpu_seconds(one.pid) if one.pid else 0.0
        return own, own + cpu_seconds_spent_here() + cpu_seconds_of_tree(one.server_pid) + cpu_seconds_of_softirqs()

    before = spent()
    units, seen = work(one)
    own, total = (after - start for after, start in zip(spent(), before, strict=True))
    figures = {OWN: own / units * 1e6} if one.pid else {}
    if one.server_pid:
        figures[TOTAL] = total / units * 1e6
    return {**figures, **seen}


def run_round(comparison: Comparison, running: list[Peer], work: Callable[[Peer], tuple[float, Figures]]) -> None:
    """One round. `work` drives a peer and returns how many units of work it did, and other figures that it saw."""
    turn = len(comparison.rounds) % len(running)
    figures: dict[str, Figures] = {}
    for one in running[turn:] + running[:turn]:  # each is first in turn
        figures[one.name] = _measure(one, work)
    if DIRECT in figures:
        for name in figures.keys() - {DIRECT}:
            figures[name][ADDED] = figures[name][TOTAL] - figures[DIRECT][TOTAL]
    comparison.rounds.append({one.name: figures[one.name] for one in running})
