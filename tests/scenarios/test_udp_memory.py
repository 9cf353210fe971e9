"""What UDP sessions cost to hold, and that they leave nothing behind. The long form runs with L4LB_SOAK=1."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.net.limits import raise_file_limit
from tests.support.datagrams import ManyClients, serving_udp
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

SOAK = bool(os.environ.get("L4LB_SOAK"))
SESSIONS = 8000
BYTES_A_SESSION = 700

CONFIG = """
[listeners.one]
bind = "127.0.0.1:0"
protocol = "udp"
pool = "udp"
udp_responses = 1

[listeners.idle]
bind = "127.0.0.1:0"
protocol = "udp"
pool = "udp"
idle_timeout = "{idle}"

[pools.udp]
backends = ["{backend}"]
"""


def config(directory: Path, backend: str, idle: str) -> list[str]:
    file = directory / "lb.toml"
    file.write_text(CONFIG.format(backend=backend, idle=idle))
    return ["serve", "-c", str(file), "--admin", f"unix:{directory}/admin"]


def sessions(directory: Path) -> dict[str, int]:
    with Client(f"unix:{directory}/admin") as client:
        return {one["name"]: one["sessions_active"] for one in client.status()["listeners"]}


def test_a_session_costs_at_most_700_bytes(tmp_path: Path) -> None:
    """Of the process's own; its socket is the kernel's."""
    if raise_file_limit() < 2 * SESSIONS + 1000:
        pytest.skip(f"RLIMIT_NOFILE allows {raise_file_limit()} files only")
    with (
        serving_udp() as server,
        l4lb(*config(tmp_path, server.address, "1h"), "--workers", "1", fresh=True) as process,
    ):
        with contextlib.closing(ManyClients(process.address("idle"))) as clients:
            clients.ask(50)
            sessions(tmp_path)  # what its answer costs is not the sessions'
            before = process.memory_bytes()
            clients.ask(SESSIONS)
            grown = process.memory_bytes() - before
            assert sessions(tmp_path)["one"] == 0
            assert clients.answered <= sessions(tmp_path)["idle"] <= clients.sent
            assert process.fds() >= SESSIONS
    assert grown / SESSIONS <= BYTES_A_SESSION, grown / SESSIONS


def churn(process: L4lb, directory: Path, seconds: int, rate: int) -> None:
    for listener in ("one", "idle"):
        with contextlib.closing(ManyClients(process.address(listener))) as clients:
            clients.ask(seconds * rate, rate)
    assert wait_until(lambda: sessions(directory) == {"one": 0, "idle": 0}), sessions(directory)


def grown_by(process: L4lb, directory: Path, seconds: int, rate: int) -> int:
    before = process.memory_bytes()
    churn(process, directory, seconds, rate)
    return process.memory_bytes() - before


def test_flows_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    """Those that end by their count of answers, and those that end by being idle. The first round makes the room that
    the next ones need again, unless a stall of this machine lets more of them pile up in one: what leaks grows in each.
    """
    seconds, rate = (60, 10_000) if SOAK else (2, 5000)
    with (
        serving_udp() as server,
        l4lb(*config(tmp_path, server.address, "300ms"), "--workers", "2", fresh=True) as process,
    ):
        process.wait_for("listener=idle")
        sessions(tmp_path)
        fds, threads, fresh = process.fds(), process.threads(), process.memory_bytes()
        churn(process, tmp_path, min(seconds, 10), rate)
        assert process.fds() < 20_000
        first = process.memory_bytes()
        grown = [grown_by(process, tmp_path, seconds, rate)]
        while min(grown) > 1 << 20 and len(grown) < 4:
            grown.append(grown_by(process, tmp_path, seconds, rate))
        assert min(grown) <= 1 << 20, (fresh, first, grown)
        assert first - fresh <= 16 << 20, (fresh, first)
        assert wait_until(lambda: process.fds() <= fds, 30), (fds, process.fds())  # sockets are kept for ten seconds
        assert process.threads() <= threads
