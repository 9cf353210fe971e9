"""Bulk transfers: CPU time a gigabyte, and throughput."""

from __future__ import annotations

import pytest

from benchmarks.comparing import Bar
from benchmarks.conftest import Compare
from benchmarks.load import iperf3
from benchmarks.peers import Peer


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_one_stream(compare: Compare, iperf3_peers: list[Peer], seconds: int, down: bool) -> None:
    bars = (Bar("CPU us", 0.55), Bar("Gbit/s", 1.2, higher_is_better=True))
    title = f"one bulk stream {'down' if down else 'up'} (unit: GB)"
    compare(title, bars, iperf3_peers, lambda one: iperf3(one, seconds, down=down))


def test_sixteen_streams(compare: Compare, iperf3_peers: list[Peer], seconds: int) -> None:
    title = "16 bulk streams up (unit: GB)"
    compare(title, (Bar("CPU us", 0.55),), iperf3_peers, lambda one: iperf3(one, seconds, streams=16))
