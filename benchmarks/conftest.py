"""Backends that the peers share, and the results: printed, and written to RESULTS.md and a plot when all have run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.comparing import Bar, Comparison, Figures, run_round
from benchmarks.machines import machine
from benchmarks.peers import Lineup, Peer, Tcp, peers
from benchmarks.results import Results
from tests.support.programs import free_port, nginx, require
from tests.support.waiting import wait_until

HERE = Path(__file__).parent
RESULTS = pytest.StashKey[Results]()
AGAINST_BEFORE = 1.02  # what a unit of work may cost, of what it cost before


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("l4lb")
    group.addoption("--rounds", type=int, default=7, help="interleaved rounds of each comparison")
    group.addoption("--seconds", type=int, default=4, help="length of one peer's turn in a round")
    group.addoption("--against", type=Path, help="another built checkout of l4lb to compare with, and nobody else")
    group.addoption("--write", action="store_true", help="write RESULTS.md and its plot")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results(config.getoption("--rounds"), config.getoption("--seconds"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[RESULTS].tables():
        terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    results = session.config.stash[RESULTS]
    if session.config.getoption("--write") and exitstatus == 0 and results.comparisons:
        results.write(HERE, machine())


@pytest.fixture
def seconds(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--seconds"))


@pytest.fixture(scope="session")
def lineup(pytestconfig: pytest.Config) -> Lineup:
    before = pytestconfig.getoption("--against")
    return Lineup(before.resolve() if before else None)


@pytest.fixture
def results(pytestconfig: pytest.Config) -> Results:
    return pytestconfig.stash[RESULTS]


Compare = Callable[[str, tuple[Bar, ...], list[Peer], Callable[[Peer], tuple[float, Figures]]], Comparison]


@pytest.fixture
def compare(benchmark: BenchmarkFixture, results: Results, pytestconfig: pytest.Config, lineup: Lineup) -> Compare:
    """Run the rounds of one comparison under pytest-benchmark and keep what was measured."""

    def run(
        title: str, bars: tuple[Bar, ...], running: list[Peer], work: Callable[[Peer], tuple[float, Figures]]
    ) -> Comparison:
        if lineup.before and any(one.name == "before" for one in running):
            bars = (Bar("CPU us", AGAINST_BEFORE),)
        comparison = Comparison(title, bars)
        benchmark.pedantic(
            run_round, args=(comparison, running, work), rounds=pytestconfig.getoption("--rounds"), iterations=1
        )
        for bar in bars:
            benchmark.extra_info[f"{bar.metric}, ratio to the better peer"] = comparison.ratio_to_better(bar)
        results.comparisons.append(comparison)
        return comparison

    return run


@pytest.fixture(scope="session")
def http_peers(tmp_path_factory: pytest.TempPathFactory, lineup: Lineup) -> Iterator[list[Peer]]:
    """All peers in front of an nginx that answers each request with a few bytes."""
    directory = tmp_path_factory.mktemp("http")
    with nginx("hello") as backend:
        with peers(lineup.streams, backend.port, directory, lineup=lineup, server_pid=backend.pid) as running:
            yield running


@pytest.fixture(scope="session")
def iperf3_peers(tmp_path_factory: pytest.TempPathFactory, lineup: Lineup) -> Iterator[list[Peer]]:
    """All peers in front of an iperf3 server, which takes every connection for a test: nobody probes it."""
    port, directory = free_port(), tmp_path_factory.mktemp("iperf3")
    with (directory / "server.log").open("w") as log:
        server = subprocess.Popen([require("iperf3"), "-s", "-p", str(port), "--forceflush"], stdout=log, stderr=log)
        try:
            assert wait_until(lambda: "listening" in (directory / "server.log").read_text())
            with peers(
                lineup.streams, port, directory, Tcp(bulk=True), probe=False, lineup=lineup, server_pid=server.pid
            ) as running:
                yield running
        finally:
            server.kill()
            server.wait()
