"""Which backend is slow: where an operator, and a program, sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.errors import UnknownNameError
from tests.support import forking
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.traffic import Scraped
from tests.support.waiting import wait_until

SESSIONS = 120  # two backends share them: more than a judgement needs
SLOW_S = 3.0  # many times what the other takes, on a busy machine too
FILE = """
[global]
backend_histograms = {histograms}
[admin]
bind = "{admin}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
max_sessions = 5000
session_rate = "100000/s"
[pools.web]
policy = "round_robin"
queue_size = 7
backends = [{{ id = "quick", address = "{quick}" }}, {{ id = "late", address = "{late}", max_sessions = 900 }}]
health = {{ type = "none" }}
"""
TIMES = ("connect", "first_byte", "session")


def late(sock: socket.socket) -> None:
    if data := sock.recv(100):
        time.sleep(SLOW_S)
        sock.sendall(data)
        echo(sock)


@contextlib.contextmanager
def two_backends(tmp_path: Path, histograms: int = 500) -> Iterator[tuple[L4lb, str, Path]]:
    """The process, its admin API and its file."""
    with serving(echo) as quick, serving(late) as slow:
        admin, file = f"127.0.0.1:{free_port()}", tmp_path / "lb.toml"
        values = {"admin": admin, "quick": quick.address, "late": slow.address}
        file.write_text(FILE.format(histograms=histograms, **values))
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            process.wait_for("admin listening")
            yield process, admin, file


def visit(address: str | tuple[str, int], count: int) -> None:
    """So many clients at once, each with one question. They ask one after the other, as far as they are answered at
    once: a stall of the machine makes a few of them look slow, and not most."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(count)]
        for client in clients:
            client.sendall(b"?")
            select.select([client], [], [], 0.05)
        for client in clients:
            assert client.recv(1) == b"?"


def ended(admin: str, count: int) -> Scraped:
    """What is scraped once so many sessions have ended."""
    assert wait_until(lambda: Scraped(admin).total("l4lb_session_closed_total") == count)
    return Scraped(admin)


def test_status_library_and_metrics_show_it(tmp_path: Path) -> None:
    with two_backends(tmp_path) as (process, admin, _), Client(admin) as client:
        visit(process.address("web"), SESSIONS)
        scraped = ended(admin, SESSIONS)
        for name in TIMES:
            assert scraped.total(f"l4lb_backend_{name}_seconds_count") == SESSIONS
            for backend in ("quick", "late"):
                name_ = f"l4lb_backend_{name}_seconds_bucket"
                assert scraped.total(name_, pool="web", backend=backend, le="+Inf") == SESSIONS / 2
        slow_sum = scraped.total("l4lb_backend_first_byte_seconds_sum", backend="late")
        assert slow_sum > SLOW_S * 0.9 * SESSIONS / 2

        backends = {one["id"]: one for one in client.status()["pools"][0]["backends"]}
        found = backends["late"]["latency"]
        assert found is not None
        assert [found[name]["count"] for name in TIMES] == [SESSIONS / 2] * 3
        first_byte = found["first_byte"]
        assert first_byte["p50_s"] >= 2, "the bucket of 3 s begins there"
        assert first_byte["mean_s"] > SLOW_S * 0.9
        assert first_byte["p50_s"] <= first_byte["p90_s"] <= first_byte["p99_s"]
        assert "first byte p50 is " in backends["late"]["slow"]
        assert backends["quick"]["slow"] == ""
        assert client.pools["web"]["late"].latency == found
        assert asyncio.run(client.pools["web"]["late"].alatency()) == found

        table = forking.run("status", "--admin", admin).stdout
        heading = next(line for line in table.splitlines() if line.startswith("POOL") and "BACKEND " in line)
        assert [word in heading for word in ("FIRST BYTE P50", "FIRST BYTE P99", "CONNECT P50")] == [True] * 3
        row = next(line for line in table.splitlines() if " late " in line)
        assert "slow: first byte p50 is " in row
        assert "times its pool's" in row
        assert table.splitlines()[-1] == "backends much slower than their pool: 1 of 2: late of web"
        candidates = forking.run("explain", "web", "192.0.2.7", "--admin", admin).stdout.splitlines()
        assert {
            name: "slow: first byte p50 is " in next(line for line in candidates if f". {name}" in line)
            for name in ("late", "quick")
        } == {"late": True, "quick": False}
        answer = json.loads(forking.run("status", "--admin", admin, "-o", "json").stdout)
        assert {one["id"]: one["latency"] for one in answer["pools"][0]["backends"]}["late"] == found


def test_limits_stand_beside_what_they_limit(tmp_path: Path) -> None:
    with two_backends(tmp_path) as (_, admin, _):
        scraped = Scraped(admin)
        assert scraped.total("l4lb_listener_max_sessions", listener="web") == 5000
        assert scraped.total("l4lb_listener_session_rate", listener="web") == 100000
        assert scraped.total("l4lb_queue_size", pool="web") == 7
        assert [(one.labels, one.value) for one in scraped.samples if one.name == "l4lb_backend_max_sessions"] == [
            ({"pool": "web", "backend": "late"}, 900)
        ], "the other has none"
        assert scraped.total("l4lb_max_sessions") > 0


def test_large_pools_are_left_out_of_the_metrics_alone(tmp_path: Path) -> None:
    with two_backends(tmp_path, histograms=1) as (process, admin, file), Client(admin) as client:
        visit(process.address("web"), 2)
        assert not any("_seconds_" in one.name and "backend" in one.labels for one in ended(admin, 2).samples)
        latency = client.pools["web"]["quick"].latency
        assert latency is not None
        assert latency["session"]["count"] == 1
        file.write_text(file.read_text().replace("backend_histograms = 1\n", "backend_histograms = 2\n"))
        assert client.reload().needs_restart == ()
        for name in TIMES:
            assert Scraped(admin).total(f"l4lb_backend_{name}_seconds_count") == 2


def test_the_library_shows_the_same() -> None:
    with serving(echo) as server, balancing([server.address]) as balancer:
        backend = balancer.pools["web"][server.address]
        nothing = backend.latency
        assert nothing is not None
        assert nothing["connect"] == {"count": 0, "mean_s": None, "p50_s": None, "p90_s": None, "p99_s": None}
        visit(address_of(balancer), 3)
        assert wait_until(lambda: (backend.latency or nothing)["session"]["count"] == 3)
        found = asyncio.run(backend.alatency())
        assert found is not None
        assert [found[name]["count"] for name in TIMES] == [3, 3, 3]
        balancer.pools["web"].remove(server.address)
        with pytest.raises(UnknownNameError):
            _ = backend.latency


@pytest.mark.parametrize("value", ["-1", '"all"', "true"])
def test_a_bound_that_is_no_number_of_backends_is_refused(value: str, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(f"[global]\nbackend_histograms = {value}\n")
    done = forking.run("check", str(file))
    assert done.returncode == 2
    assert "global.backend_histograms" in done.stderr
