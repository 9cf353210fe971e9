"""The hosts, what runs on them, and the results: printed, and written to KERNEL.md and a plot when all have run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kernel.hosts import lab
from benchmarks.kernel.peers import DSR, NAT, NFTABLES, PROXY, ROUTED, Running, running
from benchmarks.kernel.results import KernelResults
from benchmarks.machines import machine

KERNEL_RESULTS = pytest.StashKey[KernelResults]()
BENCHMARKS = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KERNEL_RESULTS] = KernelResults(config.getoption("--rounds"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[KERNEL_RESULTS].lines():
        terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    results = session.config.stash[KERNEL_RESULTS]
    if session.config.getoption("--write") and exitstatus == 0 and results.works:
        results.write(BENCHMARKS, machine())


@pytest.fixture
def kernel_results(pytestconfig: pytest.Config) -> KernelResults:
    return pytestconfig.stash[KERNEL_RESULTS]


@pytest.fixture(scope="session")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with lab([NAT, DSR, PROXY, NFTABLES, ROUTED]) as made, running(made, tmp_path_factory.mktemp("kernel")) as found:
        yield found
