"""What the benchmarks of forwarding in the kernel found: as text, as KERNEL.md and as a plot."""

from __future__ import annotations

import datetime
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.comparing import ADDED, TOTAL, Comparison
from benchmarks.kernel.peers import AGAIN, DSR, L4LB, NAT, NFTABLES, PROXY, ROUTED, RULES
from benchmarks.kernel.plot import plot
from benchmarks.peers import DIRECT
from benchmarks.results import markdown, number

MEANING = f"""Written by `make bench ARGS="-k kernel"` on {{date}}. Client, backend and each balancer are hosts of
their own on one machine: network namespaces, joined by veth devices.

CPU time is that of all that take part: client, backend, l4lb's process, and the kernel's softirq threads, which
handle packets when there are many. Otherwise the kernel charges whoever sends a packet for its whole way to the
socket where it ends, so what a balancer in the kernel costs is spread over all of these. "Above direct" is the same
less what the work takes over a link that joins client and backend, in the same round. "Of the proxy's" is that,
divided by what l4lb's own proxy takes above direct in the same round. Figures are medians of {{rounds}} interleaved
rounds, with the least and the most of a round in brackets. Each turn is the same number of requests, except for
those of 1 MB, which are as many as fit into two seconds; each client asks again as soon as it has its answer. (At a
fixed rate, CPUs fall idle and wake between requests, which makes the figures several times as uneven.)

`{NAT}` and `{DSR}` are `engine = "kernel"`, attached by tcx; `{PROXY}` is the same listeners without it;
`{NFTABLES}` is DNAT with connection tracking; `{ROUTED}` is a host that forwards and does nothing else: the rest of
a balancer's figure is its own. `{AGAIN}` is the direct link once more: two figures that differ by less than its
range are equal."""


@dataclass(frozen=True)
class KernelBar:
    """The most that `name` should take of the proxy's CPU time above a direct connection."""

    name: str
    limit: float


@dataclass
class Work:
    """A kind of work, and its bars."""

    comparison: Comparison
    bars: tuple[KernelBar, ...]

    def share(self, name: str) -> float:
        return statistics.median(self.shares(name))

    def shares(self, name: str) -> list[float]:
        return self.comparison.ratios(name, PROXY, ADDED)

    def limit(self, name: str) -> float | None:
        return next((bar.limit for bar in self.bars if bar.name == name), None)

    @property
    def names(self) -> list[str]:
        return [name for name in self.comparison.names if name != DIRECT]

    def rows(self) -> list[list[str]]:
        head = ["", "CPU us of all", "above direct", "of the proxy's", "bar", "met", "failed"]
        direct = [DIRECT, number(self.comparison.median(DIRECT, TOTAL)), "", "", "", "", self._failed(DIRECT)]
        return [head, *(self._row(name) for name in self.names), direct]

    def _row(self, name: str) -> list[str]:
        added, limit = self.comparison.values(name, ADDED), self.limit(name)
        share = "" if name == PROXY else ranged(self.shares(name))
        bar, met = ("", "") if limit is None else (f"≤ {limit:g}", "yes" if self.share(name) <= limit else "no")
        total = number(self.comparison.median(name, TOTAL))
        return [name, total, ranged(added), share, bar, met, self._failed(name)]

    def _failed(self, name: str) -> str:
        return number(self.comparison.total(name, "failed"))


def ranged(values: list[float]) -> str:
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"


@dataclass(frozen=True)
class Packets:
    """Packets alone: nanoseconds above a drop by name, for each number of flows, of each round; `limit` is the first
    one's bar."""

    flows: tuple[int, ...]
    above_drop: dict[str, list[list[float]]]
    limit: float


@dataclass
class KernelResults:
    """Of one run. `tables`: more of them, with their titles."""

    rounds: int
    works: list[Work] = field(default_factory=list)
    tables: list[tuple[str, list[list[str]]]] = field(default_factory=list)
    packets: Packets | None = None

    def all_tables(self) -> list[tuple[str, list[list[str]]]]:
        return [*((work.comparison.title, work.rows()) for work in self.works), *self.tables]

    def lines(self) -> list[str]:
        lines = []
        for title, rows in self.all_tables():
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines += ["", title]
            lines += [
                "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
            ]
        return lines

    def write(self, directory: Path, machine: list[str]) -> None:
        """KERNEL.md and kernel.png in `directory`."""
        plot(directory / "kernel.png", self.works, self.packets)
        text = ["# Forwarding in the kernel", "", MEANING.format(date=datetime.date.today(), rounds=self.rounds), ""]
        text += [*(f"- {line}" for line in machine), ""]
        text += ["![CPU time above a direct connection, as a share of the proxy's](kernel.png)", ""]
        for title, rows in self.all_tables():
            text += [f"## {title}", "", *markdown(rows), ""]
        for title, config in (("Configuration of l4lb", L4LB), ("Rules of nftables", RULES)):
            text += [f"## {title}", "", "```", config.strip().replace("{{", "{").replace("}}", "}"), "```", ""]
        (directory / "KERNEL.md").write_text("\n".join(text), encoding="utf-8")
