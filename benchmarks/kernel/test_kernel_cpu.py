"""Forwarding in the kernel beside l4lb's own proxy and nftables: what each costs above a direct connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from benchmarks.comparing import Comparison, Figures, run_round
from benchmarks.kernel.peers import DSR, NAT, Running
from benchmarks.kernel.results import KernelBar, KernelResults, Work
from benchmarks.load import counted, wrk
from benchmarks.peers import Peer

CLIENTS = 50
# What it is, how paced.c calls it, and how many are a turn: two seconds' work or so.
COUNTED = {
    "keep-alive requests": ("keep", 200_000, (KernelBar(NAT, 0.4), KernelBar(DSR, 0.3))),
    "one-request sessions": ("close", 30_000, (KernelBar(NAT, 0.5), KernelBar(DSR, 0.5))),
    "UDP": ("dns", 250_000, (KernelBar(NAT, 0.35), KernelBar(DSR, 0.35))),
}
BIG_CLIENTS, BIG_SECONDS = 8, 2


class Measure:
    """Runs the rounds of one kind of work and keeps what was found."""

    def __init__(self, benchmark: BenchmarkFixture, results: KernelResults) -> None:
        self._benchmark = benchmark
        self._results = results

    def __call__(self, work: Work, peers: list[Peer], once: Callable[[Peer], tuple[float, Figures]]) -> None:
        self._benchmark.pedantic(
            run_round, args=(work.comparison, peers, once), rounds=self._results.rounds, iterations=1
        )
        self._results.works.append(work)
        failed = {name: work.comparison.total(name, "failed") for name in work.comparison.names}
        assert not any(failed.values()), failed


@pytest.fixture
def measure(benchmark: BenchmarkFixture, kernel_results: KernelResults) -> Measure:
    return Measure(benchmark, kernel_results)


@pytest.mark.parametrize("kind", list(COUNTED))
def test_requests(kind: str, measure: Measure, everybody: Running) -> None:
    what, count, bars = COUNTED[kind]

    def once(peer: Peer) -> tuple[float, Figures]:
        return counted(peer, what, CLIENTS, count)

    peers = everybody.udp if what == "dns" else everybody.http
    measure(Work(Comparison(f"{kind}, {CLIENTS} clients", ()), bars), peers, once)


def test_bulk(measure: Measure, everybody: Running) -> None:
    def once(peer: Peer) -> tuple[float, Figures]:
        done, figures = wrk(peer, BIG_CLIENTS, BIG_SECONDS, close=False, path="/big")
        return done, {"failed": figures["failed"]}

    title = f"answers of 1 MB, {BIG_CLIENTS} clients"
    measure(Work(Comparison(title, ()), (KernelBar(NAT, 0.5),)), everybody.http, once)
