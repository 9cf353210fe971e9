"""Packets alone: what a datagram of 18 bytes costs one CPU above a drop: XDP, tcx, nftables, plain routing."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from benchmarks.kernel.packets import DROP, NFTABLES, ROUTED, Forwarder, Sent, forwarders, send
from benchmarks.kernel.results import KernelResults, Packets, ranged
from tests.support.programs import require

BEST = "native dsr"
NAMES = (BEST, "native nat", "tcx dsr", "tcx nat", "generic dsr", NFTABLES, ROUTED, DROP)
FLOWS = (1_000, 200_000)
COUNT = 500_000
MOST_NS, TIMES_BELOW_NFTABLES = 400, 2.5

Round = dict[str, Sent]


def _once(rounds: list[Round], running: list[Forwarder], flows: int) -> None:
    turn = len(rounds) % len(running)
    rounds.append({one.name: send(one, flows, COUNT) for one in running[turn:] + running[:turn]})


def _above_drop(rounds: list[Round], name: str) -> list[float]:
    return [one[name].ns - one[DROP].ns for one in rounds]


def _times(rounds: list[Round], name: str) -> list[float]:
    """How many times less than nftables each round."""
    pairs = zip(_above_drop(rounds, name), _above_drop(rounds, NFTABLES), strict=True)
    return [theirs / ours for ours, theirs in pairs]


def _row(found: list[list[Round]], name: str) -> list[str]:
    cells = []
    for rounds in found:
        cells += [ranged(_above_drop(rounds, name)), "" if name == NFTABLES else ranged(_times(rounds, name))]
    return [name, *cells, *(_verdict(found[0]) if name == BEST else ("", ""))]


def _verdict(rounds: list[Round]) -> tuple[str, str]:
    """Of the bars, which are about the fewer flows."""
    ns = statistics.median(_above_drop(rounds, BEST))
    times = statistics.median(_times(rounds, BEST))
    met = ns <= MOST_NS and times >= TIMES_BELOW_NFTABLES
    return f"≤ {MOST_NS} ns, ≥ {TIMES_BELOW_NFTABLES:g} times", "yes" if met else "no"


def test_packets(benchmark: BenchmarkFixture, kernel_results: KernelResults, tmp_path: Path) -> None:
    require("nft")
    found: list[list[Round]] = [[] for _ in FLOWS]

    def once() -> None:
        for rounds, flows in zip(found, FLOWS, strict=True):
            _once(rounds, running, flows)

    with forwarders(NAMES, tmp_path) as running:
        benchmark.pedantic(once, rounds=kernel_results.rounds, iterations=1)
    head = [""]
    for flows in FLOWS:
        head += [f"ns above a drop, {flows:,} flows", "times below nftables"]
    rows = [[*head, "bar", "met"], *(_row(found, name) for name in NAMES if name != DROP)]
    above_drop = {name: [_above_drop(rounds, name) for rounds in found] for name in NAMES if name != DROP}
    kernel_results.packets = Packets(FLOWS, above_drop, MOST_NS)
    kernel_results.tables.append(("packets alone, one CPU: a datagram of 18 bytes", rows))
