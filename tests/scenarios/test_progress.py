"""Deadlines and bytes that the peer is still taking: a slow reader gets all, one that has stopped is ended in time."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

import pytest

from l4lb import LoadBalancer
from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, closed, wait_closed
from tests.support.namespaces import BACKEND, FRONT, three_hosts
from tests.support.peers import (
    Server,
    connect,
    dawdling,
    echo,
    hold,
    read_until_end,
    reset,
    running,
    serving,
    wait_until_sent,
)
from tests.support.programs import free_port, l4lb, program, require, without_preload
from tests.support.waiting import wait_until

P = ParamSpec("P")
MODES = ["auto", "always", "off"]
DATA = random.Random(4).randbytes(600_000)
STEP = 12_000
SMALL = 4096  # of receive buffers, so that what is not read stays with the balancer
TIMEOUT_S = 0.6
FITS = DATA[:80_000]  # taken whole by the balancer's kernel, pipe and chunk, though the client takes nothing
QUEUED = DATA[:20_000]  # ... by the kernel alone
LATEST_S = 1.25 * TIMEOUT_S + 1.5  # the bound, and what a busy machine adds


STALLS: list[float] = []  # of readers, by the machine: so long that the time-out may have been over


def unless_stalled(test: Callable[P, None]) -> Callable[P, None]:
    """Once more when a reader was held up: then it was not the steady one that the test is about."""

    @functools.wraps(test)
    def again(*args: P.args, **kwargs: P.kwargs) -> None:
        for _ in range(4):
            STALLS.clear()
            try:
                return test(*args, **kwargs)
            except AssertionError:
                if not STALLS:
                    raise
        return test(*args, **kwargs)

    return again


def pause(pause_s: float) -> None:
    began = time.monotonic()
    time.sleep(pause_s)
    if (paused_s := time.monotonic() - began) > pause_s + TIMEOUT_S / 3:
        STALLS.append(paused_s)


def read_slowly(sock: socket.socket, pause_s: float = 0.05) -> tuple[bytes, bool]:
    """All that comes, steadily, for several time-outs together; and whether it ended with a reset."""
    parts = []
    try:
        while data := sock.recv(STEP):
            parts.append(data)
            pause(pause_s)
    except ConnectionResetError:
        return b"".join(parts), True
    return b"".join(parts), False


@pytest.mark.parametrize("splice", MODES)
@unless_stalled
def test_an_answer_that_is_read_slowly_outlives_half_close_timeout(splice: str) -> None:
    def give(sock: socket.socket) -> None:
        sock.sendall(DATA)  # and closes

    limits = {"half_close_timeout": f"{TIMEOUT_S}s", "splice": splice}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        began = time.monotonic()
        with dawdling(address_of(balancer)) as sock:
            assert read_slowly(sock) == (DATA, False)
        assert time.monotonic() - began > 2 * TIMEOUT_S
        wait_closed(balancer, CloseReason.NORMAL)


@pytest.mark.parametrize("splice", MODES)
@unless_stalled
def test_an_upload_that_is_read_slowly_outlives_half_close_timeout(splice: str) -> None:
    outcome: list[tuple[bytes, bool]] = []

    def take(sock: socket.socket) -> None:
        outcome.append(read_slowly(sock))
        sock.sendall(b"thanks")

    limits = {"half_close_timeout": f"{TIMEOUT_S}s", "splice": splice}
    with running(Server(take, receive_buffer=SMALL)) as server:
        with balancing([server.address], listener=limits, workers=1) as balancer:
            with connect(address_of(balancer)) as sock:
                sock.sendall(DATA)
                sock.shutdown(socket.SHUT_WR)
                assert read_until_end(sock) == (b"thanks", False)
            wait_closed(balancer, CloseReason.NORMAL)
    assert outcome == [(DATA, False)]


@pytest.mark.parametrize("splice", MODES)
@pytest.mark.parametrize("reader", ["client", "backend"])
@unless_stalled
def test_what_is_read_slowly_outlives_idle_timeout(reader: str, splice: str) -> None:
    """Neither side ends: only the bytes in the kernel's queue get fewer."""
    got: list[bytes] = []

    def slowly(sock: socket.socket) -> None:
        data = b""
        while len(data) < len(DATA):
            data += sock.recv(STEP)
            pause(0.05)
        got.append(data)

    def all_at_once(sock: socket.socket) -> None:
        sock.sendall(DATA)
        hold(sock)

    limits = {"idle_timeout": f"{TIMEOUT_S}s", "splice": splice}
    handle = all_at_once if reader == "client" else slowly
    with running(Server(handle, receive_buffer=SMALL)) as server:
        with balancing([server.address], listener=limits, workers=1) as balancer:
            if reader == "client":
                with dawdling(address_of(balancer)) as sock:
                    slowly(sock)
            else:
                with connect(address_of(balancer)) as sock:
                    sock.sendall(DATA)
                    assert wait_until(lambda: got, 20)
            assert wait_until(lambda: closed(balancer))
            assert set(closed(balancer)) <= {CloseReason.NORMAL, CloseReason.BACKEND_ABORT}
    assert got == [DATA]


@pytest.mark.parametrize("splice", MODES)
@pytest.mark.parametrize("timeout", ["off", f"{TIMEOUT_S}s"])
@pytest.mark.parametrize("lost", ["client", "backend"])
@unless_stalled
def test_what_came_before_a_reset_is_delivered_however_slowly(lost: str, timeout: str, splice: str) -> None:
    outcome: list[tuple[bytes, bool]] = []

    def give(sock: socket.socket) -> None:
        sock.sendall(DATA)
        wait_until_sent(sock)
        reset(sock)

    def take(sock: socket.socket) -> None:
        outcome.append(read_slowly(sock))

    limits = {"half_close_timeout": timeout, "splice": splice}
    with running(Server(take if lost == "client" else give, receive_buffer=SMALL)) as server:
        with balancing([server.address], listener=limits, workers=1) as balancer:
            with connect(address_of(balancer)) if lost == "client" else dawdling(address_of(balancer)) as sock:
                (give if lost == "client" else take)(sock)
                assert wait_until(lambda: outcome, 20)
            wait_closed(balancer, CloseReason.CLIENT_ABORT if lost == "client" else CloseReason.BACKEND_ABORT)
    assert outcome == [(DATA, True)]


def test_bytes_before_a_reset_reach_a_peer_that_must_send_before_it_reads_on() -> None:
    """What it sends is for nobody any more, and is thrown away."""
    got: list[int] = []

    def send_then_read(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(bytes(16 << 20))  # far more than all buffers on the way
        got.append(len(read_until_end(sock)[0]))

    with running(Server(send_then_read, receive_buffer=SMALL)) as server:
        with balancing([server.address], workers=1) as balancer:
            with dawdling(address_of(balancer)) as sock:
                sock.sendall(b"x" + FITS)
                wait_until_sent(sock)
                reset(sock)
            wait_closed(balancer, CloseReason.CLIENT_ABORT)
            assert wait_until(lambda: got)
    assert got == [len(FITS)]


# ---- and those that have stopped ----


def balancer_has(balancer: LoadBalancer, backend: str) -> bool:
    return wait_until(lambda: balancer.stats().pools["web"].backends[backend].bytes_down)


def seconds_until(condition: Callable[[], object], since: float | None = None) -> float:
    began = time.monotonic() if since is None else since
    assert wait_until(condition, 20)
    return time.monotonic() - began


@pytest.mark.parametrize("splice", MODES)
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"idle_timeout": f"{TIMEOUT_S}s"}, CloseReason.IDLE_TIMEOUT),
        ({"half_close_timeout": f"{TIMEOUT_S}s"}, CloseReason.HALF_CLOSE_TIMEOUT),
    ],
    ids=["idle", "half_close"],
)
@unless_stalled
def test_a_client_that_stops_reading_is_ended_in_time(limits: dict[str, str], reason: CloseReason, splice: str) -> None:
    """It reads for a while, with a window that is zero at its end."""

    def give(sock: socket.socket) -> None:
        sock.sendall(FITS)
        if reason is CloseReason.IDLE_TIMEOUT:
            hold(sock)

    with serving(give) as server:
        with balancing([server.address], listener={"splice": splice, **limits}, workers=1) as balancer:
            with dawdling(address_of(balancer)) as sock:
                for _ in range(10):
                    assert sock.recv(STEP)
                    pause(TIMEOUT_S / 6)
                assert not closed(balancer)
                assert TIMEOUT_S / 2 < seconds_until(lambda: closed(balancer)) < LATEST_S
                assert closed(balancer) == {reason: 1}
                assert read_until_end(sock)[1]


@pytest.mark.parametrize("data", [QUEUED, FITS], ids=["queued", "held"])
@pytest.mark.parametrize("limit", ["half_close_timeout", "idle_timeout"])
def test_a_client_that_takes_nothing_before_the_reset_is_ended_in_time(limit: str, data: bytes) -> None:
    """While bytes are held that the kernel does not take, what comes after them is not read. Then it is not known
    whether the backend's end was a reset, but that it has ended is: the time-out is the reason."""

    def give(sock: socket.socket) -> None:
        sock.sendall(data)
        wait_until_sent(sock)
        reset(sock)

    limits = {"half_close_timeout": "off", limit: f"{TIMEOUT_S}s"}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with dawdling(address_of(balancer)) as sock:
            if data == QUEUED:
                assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["resetting"])
            else:
                assert balancer_has(balancer, server.address)
            assert seconds_until(lambda: closed(balancer)) < LATEST_S
            known = {CloseReason.BACKEND_ABORT} if data == QUEUED else {CloseReason.BACKEND_ABORT, CloseReason(limit)}
            assert set(closed(balancer)) <= known
            assert read_until_end(sock)[1]


@unless_stalled
def test_max_session_duration_ends_what_is_still_being_read() -> None:
    def give(sock: socket.socket) -> None:
        sock.sendall(FITS)
        wait_until_sent(sock)
        reset(sock)

    limits = {"half_close_timeout": "off", "idle_timeout": "off", "max_session_duration": "1s"}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with dawdling(address_of(balancer)) as sock:
            data, was_reset = read_slowly(sock, 0.2)
            assert was_reset
            assert len(data) < len(FITS)
        wait_closed(balancer, CloseReason.MAX_DURATION)


def test_an_operator_ends_what_no_time_out_would() -> None:
    def give(sock: socket.socket) -> None:
        sock.sendall(QUEUED)
        wait_until_sent(sock)
        reset(sock)

    limits = {"half_close_timeout": "off", "idle_timeout": "off"}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with dawdling(address_of(balancer)) as sock:
            assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["resetting"])
            balancer.kill_session(balancer.sessions()[0]["id"])
            wait_closed(balancer, CloseReason.ADMIN)
            assert read_until_end(sock)[1]


def test_an_idle_session_ends_at_its_time_and_no_later() -> None:
    """Nothing is unsent: the looks in between do not keep it."""
    with serving(echo) as server:
        with balancing([server.address], listener={"idle_timeout": f"{TIMEOUT_S}s"}, workers=1) as balancer:
            with connect(address_of(balancer)) as sock:
                asked_at = time.monotonic()
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                assert TIMEOUT_S / 2 < seconds_until(lambda: closed(balancer), asked_at) < LATEST_S
            assert closed(balancer) == {CloseReason.IDLE_TIMEOUT: 1}


def test_a_bandwidth_limit_that_needs_longer_than_the_time_out_ends_nothing() -> None:
    """It is the balancer that waits."""
    data = DATA[:60_000]

    def give(sock: socket.socket) -> None:
        sock.sendall(data)

    limits = {"half_close_timeout": "100ms", "idle_timeout": "100ms", "bandwidth_down": "20KB/s"}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            assert read_until_end(sock) == (data, False)
        wait_closed(balancer, CloseReason.NORMAL)


@unless_stalled
def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    """Their queues count differently, and get shorter as the peer reads."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "backend"))
    listening.listen()

    def give(sock: socket.socket) -> None:
        sock.sendall(DATA)
        hold(sock)

    limits = {"bind": f"unix:{tmp_path}/listener", "idle_timeout": f"{TIMEOUT_S}s"}
    with running(Server(give, listening=listening)):
        with balancing([f"unix:{tmp_path}/backend"], listener=limits, workers=1) as balancer:
            with connect(f"unix:{tmp_path}/listener") as sock:
                data = b""
                while len(data) < len(DATA):
                    data += sock.recv(STEP)
                    pause(0.05)
                assert data == DATA
                assert TIMEOUT_S / 2 < seconds_until(lambda: closed(balancer)) < LATEST_S
            assert closed(balancer) == {CloseReason.IDLE_TIMEOUT: 1}


@pytest.mark.parametrize("splice", ["always", "off"])
def test_a_client_that_has_everything_is_not_reset(splice: str) -> None:
    """It has answer and FIN, in its own kernel, and does not close: the backend's side is cut, and it may read on."""
    data = DATA[:100_000]

    def give(sock: socket.socket) -> None:
        sock.sendall(data)

    limits = {"half_close_timeout": "200ms", "splice": splice}
    with serving(give) as server, balancing([server.address], listener=limits, workers=1) as balancer:
        with connect(address_of(balancer)) as sock:
            wait_closed(balancer, CloseReason.HALF_CLOSE_TIMEOUT)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert read_until_end(sock) == (data, False)


# ---- with real programs ----

NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b;
  fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  server {{ listen 127.0.0.1:{port}; root {dir}; keepalive_timeout 0; }}
}}
"""


@contextlib.contextmanager
def nginx_with(data: bytes, directory: Path) -> Iterator[str]:
    """Serves `data` as /file, and closes after each answer; its address."""
    port = free_port()
    (directory / "file").write_bytes(data)
    (directory / "conf").write_text(NGINX.format(dir=directory, port=port))
    arguments = ["-p", str(directory), "-c", str(directory / "conf"), "-e", str(directory / "error.log")]
    directory.chmod(0o755)
    with program("nginx", arguments, port, directory / "log"):
        yield f"127.0.0.1:{port}"


@pytest.mark.external
def test_curl_that_is_told_to_be_slow_gets_all_of_nginx_answer(tmp_path: Path) -> None:
    """curl reads up to 1.6 MB at once and then nothing for as many seconds."""
    data = random.Random(3).randbytes(5_000_000)
    limits = {"half_close_timeout": "3s"}
    with nginx_with(data, tmp_path) as backend, balancing([backend], listener=limits, workers=1) as balancer:
        url = f"http://{address_of(balancer)}/file"
        command = [require("curl"), "-sS", "--limit-rate", "1m", "-o", str(tmp_path / "out"), url]
        subprocess.run(command, env=without_preload(), check=True, timeout=60)
        assert (tmp_path / "out").read_bytes() == data
        assert wait_until(lambda: closed(balancer))
        assert set(closed(balancer)) <= {CloseReason.NORMAL, CloseReason.HALF_CLOSE_TIMEOUT}


# ---- a peer that has vanished ----

GIVE = """
import socket
with socket.create_server(("%s", 8000)) as listening:
    print("ready", flush=True)
    sock, _ = listening.accept()
    sock.sendall(bytes(3_000_000))
    sock.recv(1)
"""
TAKE_A_LITTLE = """
import socket, time
with socket.create_connection(("%s", 80), timeout=20) as sock:
    for _ in range(5):
        sock.recv(1000)
    print("reading", flush=True)
    time.sleep(60)
"""
UNPLUGGED = "add table inet gone; " + "; ".join(
    f"add chain inet gone {hook} {{ type filter hook {hook} priority 0; policy drop; }}" for hook in ("input", "output")
)
CONFIG = """
[global]
access_log = "{log}"
log_format = "json"
[listeners.web]
bind = "{front}:80"
pool = "web"
idle_timeout = "1s"
[pools.web]
backends = ["{backend}:8000"]
health = {{ type = "none" }}
"""


@pytest.mark.external
def test_a_client_that_vanished_is_ended_while_bytes_wait_for_it(tmp_path: Path) -> None:
    """Its machine is unplugged: nothing is acknowledged any more, and nobody says so."""
    file, log = tmp_path / "lb.toml", tmp_path / "access"
    file.write_text(CONFIG.format(log=log, front=FRONT[4], backend=BACKEND[4]))
    with three_hosts() as hosts, hosts.backend.python(GIVE % BACKEND[4]) as backend:
        assert backend.stdout is not None
        assert backend.stdout.readline() == "ready\n"
        with l4lb("serve", "-c", str(file), network=hosts.balancer.name) as process:
            process.wait_for("listening")
            with hosts.client.python(TAKE_A_LITTLE % FRONT[4]) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "reading\n"
                hosts.client.run("nft", UNPLUGGED)
                assert wait_until(lambda: log.exists() and log.read_text(), 20)
    assert json.loads(log.read_text())["close_reason"] == "idle_timeout"
