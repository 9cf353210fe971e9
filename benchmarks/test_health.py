"""What checking many backends costs: 5,000 targets every 2 s."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.machines import cpu_seconds
from benchmarks.results import Results
from l4lb import Client
from tests.support.programs import l4lb

TARGETS = 5000
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"


def _serve(listening: socket.socket, talk: bool) -> None:
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listening.accept()
            with sock:
                if talk and sock.recv(4096):
                    sock.sendall(ANSWER)


def _config(directory: Path, port: int, kind: str) -> Path:
    """Every target is an address of its own on loopback, so that none is shared."""
    addresses = [f'"127.{1 + i // 62500}.{i // 250 % 250}.{1 + i % 250}:{port}"' for i in range(TARGETS)]
    file = directory / f"{kind}.toml"
    file.write_text(
        '[listeners.default]\nbind = "127.0.0.1:0"\npool = "web"\n'
        f"[pools.web]\nbackends = [{', '.join(addresses)}]\n"
        f'[pools.web.health]\ntype = "{kind}"\ninterval = "2s"\n'
    )
    return file


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_health(benchmark: BenchmarkFixture, results: Results, seconds: int, tmp_path: Path, kind: str) -> None:
    duration_s = max(10, 2 * seconds)
    with socket.create_server(("0.0.0.0", 0), backlog=4096) as listening:
        threading.Thread(target=_serve, args=(listening, kind == "http"), daemon=True).start()
        file = _config(tmp_path, listening.getsockname()[1], kind)
        admin = f"unix:{tmp_path}/{kind}.sock"
        with l4lb("serve", "-c", str(file), "--admin", admin, fresh=True) as process:
            process.address()
            with Client(admin) as client:
                while client.status()["pools"][0]["usable"] < TARGETS:
                    time.sleep(0.5)
                time.sleep(4)  # two intervals: the second check of each comes at its own phase
                measured = {}

                def run() -> None:
                    before, began = cpu_seconds(process.process.pid), time.monotonic()
                    time.sleep(duration_s)
                    measured["share"] = (cpu_seconds(process.process.pid) - before) / (time.monotonic() - began)

                benchmark.pedantic(run, rounds=1, iterations=1)
                lag_s = client.status()["health_lag_s"]
                late = process.log.count("backend down")
    assert late == 0
    results.figures.append(
        (f"{kind} checks of {TARGETS} targets every 2 s, CPU (bar: at most 0.3)", f"{measured['share']:.2f}")
    )
    results.figures.append((f"{kind} checks: lag at the end, ms (bar: at most 100)", f"{1000 * lag_s:.1f}"))
