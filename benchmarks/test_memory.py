"""What an idle session costs in the process's own memory."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.comparing import Comparison
from benchmarks.machines import private_bytes
from benchmarks.peers import DIRECT, FLOOR, Lineup, peer
from benchmarks.results import Results
from l4lb.net.limits import raise_file_limit

SESSIONS = 4000


def idle_session_bytes(name: str, directory: Path, lineup: Lineup) -> float:
    """Growth of the process's private memory for each of 4,000 sessions that have said nothing."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listening.accept()[0])

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        one = stack.enter_context(peer(name, listening.getsockname()[1], directory, lineup=lineup))
        target = ("127.0.0.1", one.port)
        for _ in range(20):  # what the first sessions allocate once is not theirs
            stack.enter_context(socket.create_connection(target))
        before = private_bytes(one.pid)
        for _ in range(SESSIONS):
            stack.enter_context(socket.create_connection(target))
        while len(held) < SESSIONS + 20:
            accepting.join(0.01)
        grown = private_bytes(one.pid) - before
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for sock in held:
            sock.close()
    return grown / SESSIONS


def test_idle_session(benchmark: BenchmarkFixture, results: Results, tmp_path: Path, lineup: Lineup) -> None:
    if raise_file_limit() < 2 * SESSIONS + 1000:
        pytest.skip("the limit of open files is too low for 4,000 sessions on both sides")
    comparison = Comparison("idle sessions: bytes of the process's memory each (one round)", ())

    def one_round() -> None:
        sizes = {
            name: idle_session_bytes(name, tmp_path, lineup) for name in lineup.streams if name not in (DIRECT, FLOOR)
        }
        comparison.rounds.append({name: {"bytes": size} for name, size in sizes.items()})

    benchmark.pedantic(one_round, rounds=1, iterations=1)
    results.comparisons.append(comparison)
    results.figures.append(("idle session, bytes (bar: at most 600)", f"{comparison.median('l4lb', 'bytes'):.0f}"))
