"""System calls of the whole process for one-request sessions, counted by strace: the steadiest measure of cost."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.peers import connect
from tests.support.programs import L4lb, l4lb, nginx, require, without_preload
from tests.support.proxy_headers import V4, v2
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.external, pytest.mark.alone]

SESSIONS = 1000
CLIENTS = 50
BUDGET = 14.5  # calls a session; 13 are the work itself, the rest is waiting for events

CONFIG = """
[global]
workers = 1

[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
{listener}

[pools.web]
backends = ["{backend}"]
{pool}

[pools.web.health]
type = "none"
"""

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def one_request(address: tuple[str, int], first: bytes) -> bool:
    with connect(address) as sock:
        sock.sendall(first + REQUEST)
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello\n")


def many_requests(address: tuple[str, int], count: int, first: bytes) -> int:
    """How many were answered."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(one_request, [address] * count, [first] * count))


@contextlib.contextmanager
def traced(process: L4lb, output: Path, *options: str) -> Iterator[None]:
    """What strace says of it meanwhile goes to `output`. Skips where this user may not trace."""
    command = [require("strace"), "-f", *options, "-o", str(output), "-p", str(process.process.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=without_preload())
    assert tracer.stderr is not None
    attached = tracer.stderr.readline()
    if "Operation not permitted" in attached:
        tracer.wait()
        tracer.stderr.close()
        pytest.skip(f"this user may not trace processes: {attached.strip()}")
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()


def counted(summary: str) -> dict[str, int]:
    """Calls by name, from the table that `strace -c` prints: "% time  seconds  usecs/call  calls  [errors]  name"."""
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", summary, re.MULTILINE)
    return {name: int(count) for count, name in rows if name != "total"}


ACCEPT = 'accept_proxy = "v2"\nproxy_trusted = ["127.0.0.1"]'
DEFER = 'defer_accept = "1s"'
SEND = 'send_proxy = "v2"\nsend_proxy_tlvs = ["unique_id", "crc32c"]'


@pytest.mark.parametrize(
    ("listener", "pool"),
    [("", ""), ("", SEND), (ACCEPT, ""), (f"{ACCEPT}\n{DEFER}", ""), (ACCEPT, SEND)],
    ids=["plain", "send", "accept", "deferred", "both"],
)
def test_system_calls_of_a_one_request_session(tmp_path: Path, listener: str, pool: str) -> None:
    """A PROXY header, in or out, takes none of its own."""
    first = v2(0x11, V4) if listener else b""
    output, config = tmp_path / "strace", tmp_path / "lb.toml"
    with nginx("hello", " proxy_protocol" if pool else "") as backend:
        config.write_text(CONFIG.format(backend=backend.address, listener=listener, pool=pool))
        with l4lb("serve", "-c", str(config)) as process:
            address = process.address("web")
            assert many_requests(address, 100, first) == 100  # what is set up once, and the guess at who speaks first
            with traced(process, output, "-c"):
                assert many_requests(address, SESSIONS, first) == SESSIONS
                assert wait_until(lambda: process.fds() < 60)
    calls = counted(output.read_text())
    assert calls["accept4"] >= SESSIONS  # the tracer saw the work
    assert sum(calls.values()) / SESSIONS <= BUDGET, calls


@pytest.mark.parametrize(
    ("more", "begins"),
    [("", ["accept4", "epoll_ctl", "recvfrom"]), (DEFER, ["accept4", "recvfrom", "socket"])],
    ids=["accept", "deferred"],
)
def test_a_deferred_client_is_not_watched_for_its_header(tmp_path: Path, more: str, begins: list[str]) -> None:
    output, config = tmp_path / "strace", tmp_path / "lb.toml"
    with nginx("hello") as backend:
        config.write_text(CONFIG.format(backend=backend.address, listener=f"{ACCEPT}\n{more}", pool=""))
        with l4lb("serve", "-c", str(config)) as process:
            address = process.address("web")
            with traced(process, output, "-e", "trace=accept4,epoll_ctl,recvfrom,socket"):
                assert one_request(address, v2(0x11, V4))
    calls = re.findall(r"^\d+\s+(\w+)\(.*\) += \d", output.read_text(), re.MULTILINE)  # those that succeeded
    assert calls[calls.index("accept4") :][:3] == begins
