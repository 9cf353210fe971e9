"""What it costs to hold sessions and slow peers, and that nothing stays behind. The long forms run with L4LB_SOAK=1."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from l4lb.net.limits import raise_file_limit
from tests.support.peers import connect, one_answer, read_all, serving
from tests.support.programs import free_port, l4lb, require, run, without_preload
from tests.support.waiting import wait_until

SOAK = bool(os.environ.get("L4LB_SOAK"))
IDLE_SESSIONS = 4000
BYTES_A_SESSION = 1024


def test_idle_sessions_cost_less_than_a_kibibyte_each() -> None:
    if raise_file_limit() < 2 * IDLE_SESSIONS + 1000:
        pytest.skip(f"RLIMIT_NOFILE allows {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} files only")
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    clients: list[socket.socket] = []
    backends: list[socket.socket] = []
    accepting = threading.Thread(
        target=lambda: backends.extend(listening.accept()[0] for _ in range(IDLE_SESSIONS + 1))
    )
    accepting.start()
    with l4lb("serve", "--listen", "127.0.0.1:0", "--backend", address, "--workers", "1", fresh=True) as process:
        target = process.address()
        process.wait_for("backend up")
        before = process.memory_bytes()
        clients.extend(connect(target) for _ in range(IDLE_SESSIONS))
        accepting.join(30)
        for sock in clients[:100]:  # some of them are in use
            sock.sendall(b"hello")
        grown = process.memory_bytes() - before
        assert process.fds() >= 2 * IDLE_SESSIONS
        for sock in [*clients, *backends]:
            sock.close()
        listening.close()
        assert wait_until(lambda: process.fds() < 60)
    assert grown / IDLE_SESSIONS <= BYTES_A_SESSION, grown / IDLE_SESSIONS


def test_a_client_that_never_reads_costs_at_most_its_buffer() -> None:
    """The backend is stopped by back-pressure long before its gigabyte is through."""
    sent = [0]

    def send_a_gigabyte(sock: socket.socket) -> None:
        block = bytes(1 << 20)
        for _ in range(1024):
            sock.sendall(block)
            sent[0] += len(block)

    with serving(send_a_gigabyte) as server:
        with l4lb(
            "serve", "--listen", "127.0.0.1:0", "--backend", server.address, "--workers", "1", fresh=True
        ) as process:
            process.wait_for("backend up")
            before = process.memory_bytes()
            with connect(process.address()):
                progress = [0.0, time.monotonic()]

                def stalled() -> bool:
                    if sent[0] != progress[0]:
                        progress[:] = [sent[0], time.monotonic()]
                    return sent[0] > 0 and time.monotonic() - progress[1] > 1.0

                assert wait_until(stalled, 20)
                assert sent[0] < 64 << 20
                assert process.memory_bytes() - before <= 2 << 20


def test_connect_and_close_leaves_nothing_behind() -> None:
    seconds = 60 if SOAK else 3
    with serving(one_answer(b"hello")) as server:
        with l4lb(
            "serve", "--listen", "127.0.0.1:0", "--backend", server.address, "--workers", "2", fresh=True
        ) as process:
            target = process.address()
            process.wait_for("backend up")
            fds, threads = process.fds(), process.threads()
            end = time.monotonic() + seconds
            counts: list[int] = []

            def churn() -> None:
                count = 0
                while time.monotonic() < end:
                    with connect(target) as sock:
                        if count % 3:
                            sock.sendall(b"hi")
                            assert sock.recv(100) == b"hello"
                    count += 1
                counts.append(count)

            clients = [threading.Thread(target=churn) for _ in range(50)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            assert len(counts) == 50
            # A pipe may stay in each worker's cache; nothing else.
            assert wait_until(lambda: process.fds() <= fds + 4), (fds, process.fds())
            assert process.threads() <= threads


@pytest.mark.parametrize("direction", ["up", "down"])
def test_sixteen_streams_arrive_whole_and_memory_stays_flat(direction: str) -> None:
    size = (640 << 20) if SOAK else (24 << 20)
    block = os.urandom(1 << 20)
    digests: list[bytes] = []
    expected = hashlib.sha256(block * (size >> 20)).digest()

    def send(sock: socket.socket) -> None:
        for _ in range(size >> 20):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)

    def receive(sock: socket.socket) -> None:
        digest = hashlib.sha256()
        while data := sock.recv(1 << 20):
            digest.update(data)
        if digest.digest() != hashlib.sha256().digest():  # a health check sends nothing
            digests.append(digest.digest())
        sock.shutdown(socket.SHUT_WR)

    client_side, server_side = (send, receive) if direction == "up" else (receive, send)
    with serving(server_side) as server:
        with l4lb(
            "serve", "--listen", "127.0.0.1:0", "--backend", server.address, "--workers", "2", fresh=True
        ) as process:
            target = process.address()
            process.wait_for("backend up")

            def client() -> None:
                with connect(target) as sock:
                    sock.settimeout(600)
                    client_side(sock)

            before = process.memory_bytes()
            clients = [threading.Thread(target=client) for _ in range(16)]
            for thread in clients:
                thread.start()
            for thread in clients:
                thread.join()
            assert wait_until(lambda: len(digests) >= 16)
            assert process.memory_bytes() - before <= 4 << 20
    assert digests == [expected] * 16


WITHOUT_CHECKS = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"

[pools.web]
backends = ["127.0.0.1:{port}"]

[pools.web.health]
type = "none"
"""


@pytest.mark.external
@pytest.mark.parametrize("reverse", [False, True])
def test_iperf3_sixteen_streams(reverse: bool, tmp_path: Path) -> None:
    """Its server takes every connection for a test, one at a time: nothing else may connect to it."""
    program = require("iperf3")
    port, count = free_port(), "10G" if SOAK else "1G"
    config = tmp_path / "lb.toml"
    config.write_text(WITHOUT_CHECKS.format(port=port))
    with (tmp_path / "server.log").open("w+") as log:
        server = subprocess.Popen(
            [program, "-s", "-p", str(port), "--forceflush"], stdout=log, stderr=log, env=without_preload()
        )
        try:
            assert wait_until(lambda: "listening" in (tmp_path / "server.log").read_text())
            with l4lb("serve", "-c", str(config), fresh=True) as process:
                target = process.address("web")
                before = process.memory_bytes()
                client = ["iperf3", "-c", target[0], "-p", str(target[1]), "-P", "16", "-n", count]
                run(*client, *(["-R"] if reverse else []), timeout_s=300)
                assert process.memory_bytes() - before <= 4 << 20
        finally:
            server.kill()
            server.wait()
