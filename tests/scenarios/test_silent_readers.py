"""Dashboards that were left open by a machine that went to sleep: hundreds of streams that nobody reads."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from l4lb.control.admin.stream import READERS_MAX
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

READERS = 300
CHANGES = 150
EVENT_BYTES = 20_000
MEMORY_BYTES_MAX = 100 << 20
CONFIG = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = [{{ address = "{address}", id = "one" }}]
health = {{ type = "none" }}
"""


def silent_reader(admin: tuple[str, int]) -> tuple[socket.socket, bytes]:
    """Asks for the stream with a small window, and reads its status and nothing more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(admin)
    sock.sendall(b"GET /v1/events?last=200 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sock, sock.recv(12)


def seconds_of_sessions(address: tuple[str, int], count: int = 100) -> float:
    """The best of three runs of so many sessions, one after the other, each with an answer."""
    best = float("inf")
    for _ in range(3):
        began = time.monotonic()
        for number in range(count):
            with connect(address) as sock:
                sock.sendall(b"%d" % number)
                assert sock.recv(16) == b"%d" % number
        best = min(best, time.monotonic() - began)
    return best


def ask(admin: tuple[str, int], method: str, path: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection(*admin, timeout=20)
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return answer


def make_events(admin: tuple[str, int]) -> None:
    """Many, and large: far more than what the kernel keeps for a reader."""
    for number in range(CHANGES):
        ask(admin, "PUT", "/v1/pools/web/backends/one", {"tags": {"note": f"{number}" + "x" * EVENT_BYTES}})


@pytest.mark.alone
def test_hundreds_of_streams_that_nobody_reads_slow_no_session(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    with serving(echo) as server, contextlib.ExitStack() as stack:
        file.write_text(CONFIG.format(address=server.address))
        process: L4lb = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", "127.0.0.1:0", fresh=True))
        found = process.wait_for(r"admin listening address=(\S+):(\d+)")
        admin, web = (found[1], int(found[2])), process.address("web")
        before, memory = seconds_of_sessions(web), process.memory_bytes()
        answers = []
        for _ in range(READERS):  # more than the connections that there may be: those that are refused are closed
            reader, answer = silent_reader(admin)
            stack.enter_context(reader)
            answers.append(answer)
        changes = threading.Thread(target=make_events, args=(admin,))
        changes.start()
        during = seconds_of_sessions(web)
        changes.join()
        assert during < 5 * before, (before, during)  # a session that waits for the control loop takes many times that
        assert process.memory_bytes() - memory < MEMORY_BYTES_MAX
        assert ask(admin, "GET", "/v1/status")["state"] == "running"
        assert answers.count(b"HTTP/1.1 200") == READERS_MAX
        assert answers.count(b"HTTP/1.1 409") == READERS - READERS_MAX
        assert wait_until(lambda: process.fds() < READERS_MAX + 60)
        assert "Traceback" not in process.log
