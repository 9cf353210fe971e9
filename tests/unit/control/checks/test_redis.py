"""Against a real redis-server, and against liars."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.support.checking import check
from tests.support.peers import TIMEOUT_S, hold, one_answer, serving
from tests.support.servers import redis
from tests.support.waiting import wait_until


@pytest.mark.external
def test_a_running_server_passes_and_logs_nothing() -> None:
    with redis() as server:
        before = server.log
        for _ in range(3):
            assert check(server.address, "redis").ok
        assert server.log == before


@pytest.mark.external
def test_one_that_asks_for_a_password_passes() -> None:
    with redis("--requirepass", "secret") as server:
        assert check(server.address, "redis").ok
        told = check(server.address, "send_expect", send="PING\r\n", expect="regex:-NOAUTH")
        assert told.ok, told
        steps = {"send": ["AUTH secret\r\n", "PING\r\n"], "expect": ["+OK", "+PONG"]}
        assert check(server.address, "send_expect", **steps).ok


@pytest.mark.external
def test_one_that_is_full_fails_with_its_own_words() -> None:
    with redis("--maxclients", "1") as server, contextlib.ExitStack() as stack:

        def taken() -> bool:
            """Also once the connection that found the server ready is forgotten."""
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S))
            sock.sendall(b"PING\r\n")
            return sock.recv(100) == b"+PONG\r\n"

        assert wait_until(taken)
        result = check(server.address, "redis")
    assert (result.ok, result.step, result.reason) == (False, "answer", "ERR max number of clients reached")


@pytest.mark.external
def test_a_stopped_server_times_out_at_the_answer_and_passes_tcp() -> None:
    with redis() as server, server.stopped():
        result = check(server.address, "redis", timeout=0.3)
        assert (result.ok, result.step, result.reason) == (False, "answer", "no answer within 0.3 s")
        assert check(server.address, "tcp").ok


def test_through_a_proxy_header() -> None:
    got: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"PING\r\n"):
            data += sock.recv(100)
        got.append(data)
        sock.sendall(b"+PO")
        sock.sendall(b"NG\r\n")

    with serving(answer) as server:
        assert check(server.address, "redis", send_proxy=True).ok
    assert got == [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0*1\r\n$4\r\nPING\r\n"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING Redis is loading the dataset in memory"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTERDOWN Link with MASTER is down"),
        (b"-DENIED protected mode\r\n", "DENIED protected mode"),
        (b"+PON", 'closed after "+PON"'),
        (b"", "closed after nothing"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", '"HTTP/1.1 400 Bad Request"'),
        (b"\xff\x00\r\n", r'"\xff\x00"'),
        (b"x" * 5000, '"' + "x" * 60 + '..."'),
    ],
)
def test_anything_else_fails(answer: bytes, reason: str) -> None:
    with serving(one_answer(answer)) as server:
        result = check(server.address, "redis")
    assert (result.ok, result.step, result.reason) == (False, "answer", reason)


def test_silence() -> None:
    with serving(hold) as server:
        assert check(server.address, "redis", timeout=0.1).reason == "no answer within 0.1 s"
