"""What a publish of one changed pool among many takes, beside the building of its table, with no capability left."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from benchmarks.kernel.publishing import SLOTS
from benchmarks.kernel.results import KernelResults
from benchmarks.results import number

POOLS = (10, 100, 1_000)
CHANGES = 21
MOST_MS = 1.0


def _row(pools: int) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.kernel.publishing", str(pools), str(CHANGES)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = sorted(1e3 * one for one in found["changes"])
    median = statistics.median(times)
    verdict = (f"≤ {MOST_MS:g}", "yes" if median <= MOST_MS else "no") if pools == POOLS[-1] else ("", "")
    return [f"{pools:,}", number(1e3 * found["first"]), number(median), number(times[-1]), *verdict]


def test_publishing(benchmark: BenchmarkFixture, kernel_results: KernelResults) -> None:
    rows = [["pools", "all of them, ms", "one changed, ms", "the most of a change, ms", "bar", "met"]]
    rows += benchmark.pedantic(lambda: [_row(pools) for pools in POOLS], rounds=1, iterations=1)
    title = f"publishing one changed pool of {SLOTS:,} slots, without capabilities ({CHANGES} times)"
    kernel_results.tables.append((title, rows))
