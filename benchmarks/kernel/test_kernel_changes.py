"""Short sessions while the table changes twenty times a second, beside the same without changes."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from benchmarks.kernel.hosts import Balancer, Lab, lab
from benchmarks.kernel.peers import NGINX
from benchmarks.kernel.results import KernelResults, ranged
from benchmarks.load import wrk
from benchmarks.peers import Peer
from benchmarks.results import number
from l4lb.client import Client
from tests.support.programs import l4lb, require, without_preload

CLIENTS, SECONDS = 50, 3
CHANGES = 60  # of each turn
LEAST_CHANGES, LEAST_SHARE = 50, 0.8
ATTACH = ("tcx", "native")
CONFIG = """[listeners.web]
bind = "{front}:80"
pool = "web"
engine = "kernel"
attach = "{attach}"

[pools.web]
policy = "maglev"
table_size = 65537
hash_key = "source_ip_port"
backends = ["{backend}:80", "{backend}:8080"]
health = {{ type = "none" }}
"""


@dataclass(frozen=True)
class Turn:
    sessions_s: float
    failed: float
    changes: int


@contextlib.contextmanager
def _server(made: Lab, directory: Path) -> Iterator[None]:
    text = NGINX.format(directory=directory).replace("listen 80 ", "listen 8080 backlog=4096; listen 80 ")
    (directory / "nginx.conf").write_text(text)
    command = [*made.backend.command, require("nginx"), "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    with subprocess.Popen([*command, "-e", str(directory / "errors")], env=without_preload()) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _balancing(balancer: Balancer, attach: str, directory: Path) -> Iterator[Client]:
    file, admin = directory / f"{attach}.toml", f"unix:{directory}/{attach}.sock"
    file.write_text(CONFIG.format(front=balancer.front, backend=balancer.backend, attach=attach))
    with l4lb("serve", "-c", str(file), "--admin", admin, within=balancer.host.command) as process:
        process.wait_for("listening listener=web")
        with Client(admin) as client:
            yield client


def _change(client: Client, backend: str, stop: threading.Event, done: list[float]) -> None:
    """One after the other, at a fixed rate; `done`: when each was adopted."""
    changed, began = client.pools["web"][backend], time.monotonic()
    for count in range(CHANGES):
        if stop.wait(max(began + count * SECONDS / CHANGES - time.monotonic(), 0)):
            return
        changed.set_weight((50, 1)[count % 2])
        done.append(time.monotonic())


def _turn(peer: Peer, client: Client, backend: str, *, changing: bool) -> Turn:
    stop, done = threading.Event(), list[float]()
    changer = threading.Thread(target=_change, args=(client, backend, stop, done))
    if changing:
        changer.start()
    try:
        sessions, figures = wrk(peer, CLIENTS, SECONDS, close=True)
        ended = time.monotonic()
    finally:
        stop.set()
        if changing:
            changer.join()
    return Turn(sessions / SECONDS, figures["failed"], sum(at <= ended for at in done))


Pair = tuple[Turn, Turn]  # with changes, and without


def _pair(rounds: list[Pair], peer: Peer, client: Client, backend: str) -> None:
    """Either comes first in turn."""
    order = (True, False) if len(rounds) % 2 else (False, True)
    found = {changing: _turn(peer, client, backend, changing=changing) for changing in order}
    rounds.append((found[True], found[False]))


def _row(attach: str, rounds: list[Pair]) -> list[str]:
    shares = [changing.sessions_s / still.sessions_s for changing, still in rounds]
    rates = [number(statistics.median(pair[which].sessions_s for pair in rounds)) for which in (0, 1)]
    changes, failed = min(one.changes for one, _ in rounds), sum(one.failed + other.failed for one, other in rounds)
    met = statistics.median(shares) >= LEAST_SHARE and changes >= LEAST_CHANGES and not failed
    bar = f"≥ {LEAST_SHARE:g}, ≥ {LEAST_CHANGES} changes, 0 failed"
    return [attach, *rates, ranged(shares), str(changes), number(failed), bar, "yes" if met else "no"]


def test_changes(benchmark: BenchmarkFixture, kernel_results: KernelResults, tmp_path: Path) -> None:
    rounds: dict[str, list[Pair]] = {attach: [] for attach in ATTACH}
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(lab(ATTACH))
        stack.enter_context(_server(made, tmp_path))
        running = {}
        for attach, balancer in made.balancers.items():
            balancer.host.run("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0")
            for host in (made.client, made.backend):
                host.make_devices_cards()
            client = stack.enter_context(_balancing(balancer, attach, tmp_path))
            peer = Peer(attach, 80, 0, 0, balancer.front, tuple(made.client.command))
            running[attach] = (peer, client, f"{balancer.backend}:8080")

        def once() -> None:
            for attach, one in running.items():
                _pair(rounds[attach], *one)

        benchmark.pedantic(once, rounds=kernel_results.rounds, iterations=1)
    head = [
        "nat",
        "sessions/s while it changes",
        "without changes",
        "share",
        "changes at least",
        "failed",
        "bar",
        "met",
    ]
    title = f"one-request sessions, {CLIENTS} clients, {CHANGES} changes of a table of 65,537 slots in {SECONDS} s"
    kernel_results.tables.append((title, [head, *(_row(attach, found) for attach, found in rounds.items())]))
