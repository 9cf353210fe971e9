"""Short sessions and keep-alive requests: what a session and a request cost, and how long they take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.comparing import ADDED, Bar
from benchmarks.conftest import Compare
from benchmarks.load import paced, wrk
from benchmarks.peers import Peer, Tcp, peer
from tests.support.programs import nginx


def test_one_request_sessions(compare: Compare, http_peers: list[Peer], seconds: int) -> None:
    bars = (Bar(ADDED, 0.85), Bar("requests/s", 1.1, higher_is_better=True), Bar("p99 ms", 1.0))
    seen = compare("one-request sessions, 50 clients", bars, http_peers, lambda one: wrk(one, 50, seconds, close=True))
    assert seen.total("l4lb", "failed") == 0


@pytest.mark.parametrize("clients", [50, 500])
def test_keep_alive_requests(compare: Compare, http_peers: list[Peer], seconds: int, clients: int) -> None:
    bars = (Bar(ADDED, 0.92), Bar("requests/s", 1.0, higher_is_better=True), Bar("p99 ms", 1.0))
    title = f"keep-alive requests, {clients} clients"
    seen = compare(title, bars, http_peers, lambda one: wrk(one, clients, seconds, close=False))
    assert seen.total("l4lb", "failed") == 0


@pytest.mark.parametrize("rate", [1_800, 8_000], ids=["a tenth", "half"])
def test_one_request_sessions_at_a_rate(compare: Compare, http_peers: list[Peer], seconds: int, rate: int) -> None:
    bars = (Bar(ADDED, 0.85), Bar("p99 us", 1.0))
    title = f"one-request sessions, {rate:,} a second"
    seen = compare(title, bars, http_peers, lambda one: paced(one, "close", 200, rate, seconds))
    assert seen.total("l4lb", "failed") == 0


@pytest.mark.parametrize("rate", [7_500, 35_000], ids=["a tenth", "half"])
def test_keep_alive_requests_at_a_rate(compare: Compare, http_peers: list[Peer], seconds: int, rate: int) -> None:
    bars = (Bar(ADDED, 0.92), Bar("p99 us", 1.0))
    title = f"keep-alive requests, 50 clients, {rate:,} a second"
    seen = compare(title, bars, http_peers, lambda one: paced(one, "keep", 50, rate, seconds))
    assert seen.total("l4lb", "failed") == 0


def test_two_workers(compare: Compare, tmp_path: Path, seconds: int) -> None:
    """Requests a CPU second with two workers against one: what sharing costs."""
    with nginx("hello") as backend:
        with (
            peer("l4lb", backend.port, tmp_path) as one,
            peer("l4lb", backend.port, tmp_path, service=Tcp(workers=2)) as two,
        ):
            running = [two, dataclasses.replace(one, name="one worker")]
            title = "keep-alive requests, 50 clients, two workers against one"
            compare(title, (Bar("CPU us", 1.1),), running, lambda each: wrk(each, 50, seconds, close=False))
