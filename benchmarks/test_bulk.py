"""Bulk transfers: CPU time a gigabyte, flat out and at a rate that all keep, and throughput."""

from __future__ import annotations

import pytest

from benchmarks.comparing import ADDED, OWN, Bar
from benchmarks.conftest import Compare
from benchmarks.load import iperf3
from benchmarks.peers import Peer

RATE_GBIT_S = 8
FASTER = Bar("Gbit/s", 1.1, higher_is_better=True)
CHEAPER = Bar(ADDED, 0.88)
DIRECTIONS = pytest.mark.parametrize("down", [False, True], ids=["up", "down"])


@DIRECTIONS
def test_one_stream(compare: Compare, iperf3_peers: list[Peer], seconds: int, down: bool) -> None:
    title = f"one bulk stream {'down' if down else 'up'} (unit: GB)"
    bars = (Bar(OWN, 1.0), CHEAPER, FASTER)
    compare(title, bars, iperf3_peers, lambda one: iperf3(one, seconds, down=down))


@DIRECTIONS
def test_one_stream_at_a_rate(compare: Compare, iperf3_peers: list[Peer], seconds: int, down: bool) -> None:
    title = f"one bulk stream {'down' if down else 'up'} at {RATE_GBIT_S} Gbit/s (unit: GB)"
    bars = (CHEAPER, Bar("Gbit/s", 0.99, higher_is_better=True))
    compare(title, bars, iperf3_peers, lambda one: iperf3(one, seconds, down=down, gbit_s=RATE_GBIT_S))


def test_sixteen_streams(compare: Compare, iperf3_peers: list[Peer], seconds: int) -> None:
    title = "16 bulk streams up (unit: GB)"
    compare(title, (CHEAPER, FASTER), iperf3_peers, lambda one: iperf3(one, seconds, streams=16))
