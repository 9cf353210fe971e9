"""Against a real PostgreSQL with each way to authenticate, and against liars."""

from __future__ import annotations

import signal
import socket
import struct

import pytest

from tests.support.checking import check
from tests.support.peers import TIMEOUT_S, hold, one_answer, serving
from tests.support.servers import postgres
from tests.support.waiting import wait_until


@pytest.mark.external
@pytest.mark.parametrize("auth", ["trust", "scram-sha-256", "md5"])
def test_a_running_server_passes_and_logs_nothing(auth: str) -> None:
    with postgres(auth) as server:
        idle, before = len(server.children), server.log
        for _ in range(3):
            result = check(server.address, "postgres")
            assert (result.ok, result.reason) == (True, "")
        assert wait_until(lambda: len(server.children) <= idle)
        assert server.log == before


@pytest.mark.external
def test_a_session_that_was_let_in_is_ended_as_clients_do() -> None:
    with postgres("trust", log_min_messages="debug1", log_disconnections="on") as server:
        assert check(server.address, "postgres").ok
        assert wait_until(lambda: "disconnection: " in server.log)
        assert "unexpected EOF" not in server.log


@pytest.mark.external
def test_a_stopped_server_times_out_at_the_answer_and_passes_tcp() -> None:
    with postgres() as server, server.stopped():
        result = check(server.address, "postgres", timeout=0.3)
        assert (result.ok, result.step, result.reason) == (False, "answer", "no answer within 0.3 s")
        assert check(server.address, "tcp").ok


@pytest.mark.external
def test_a_user_who_is_refused_shows_that_the_server_works() -> None:
    with postgres("reject") as server:
        assert check(server.address, "postgres").ok
        assert "pg_hba.conf rejects connection" in server.log
    with postgres("trust") as server:
        assert check(server.address, "postgres", user="nobody-here").ok
        assert 'role "nobody-here" does not exist' in server.log


def session(port: int) -> socket.socket:
    """A session of user postgres, once it is ready."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    body = struct.pack("!I", 196608) + b"user\0postgres\0\0"
    sock.sendall(struct.pack("!I", 4 + len(body)) + body)
    data = b""
    while not data.endswith(b"Z\0\0\0\5I"):
        data += sock.recv(4096)
    return sock


@pytest.mark.external
def test_a_server_that_shuts_down_fails_with_its_own_words() -> None:
    with postgres() as server, session(server.port):
        server.process.send_signal(signal.SIGTERM)  # smart shutdown: it waits for the session
        assert wait_until(lambda: "received smart shutdown request" in server.log)
        result = check(server.address, "postgres")
        assert (result.step, result.reason) == ("answer", "the database system is shutting down (57P03)")
        assert check(server.address, "tcp").ok


@pytest.mark.external
def test_a_server_that_is_full_fails() -> None:
    with postgres(max_connections=2, superuser_reserved_connections=0, max_wal_senders=0) as server:
        with session(server.port), session(server.port):
            result = check(server.address, "postgres")
    assert not result.ok
    assert result.reason == "sorry, too many clients already (53300)"


def error(code: bytes) -> bytes:
    body = b"SFATAL\0C" + code + b"\0Mgo\naway\0\0"
    return b"E" + struct.pack("!I", 4 + len(body)) + body


@pytest.mark.parametrize(
    ("answer", "step", "reason"),
    [
        (error(b"57P03"), "answer", "go away (57P03)"),
        (b"R\0\0\0\x08\0\0\0\0" + error(b"53300"), "session", "go away (53300)"),
        (b"R\0\0\0\x08\0\0\0\0", "session", "closed after nothing"),
        (b"R\0\0\0\x08\0\0\0\0" + b"S\0\0\0\4" * 20000, "session", "no end of messages within 64 KiB"),
        (b"E\0\0\0\4", "answer", "an error that says nothing (no code)"),
        (b"R\0\0\0\x08\0\0", "answer", r'closed after "R\x00\x00\x00\x08\x00\x00"'),
        (b"R\0\0\0\4", "answer", r'not an answer of PostgreSQL: "R"'),
        (b"R\0\0\0\x08\0\0\0\x63", "answer", r'not an answer of PostgreSQL: "R\x00\x00\x00c"'),
        (b"R\xff\xff\xff\xff", "answer", r'not an answer of PostgreSQL: "R\xff\xff\xff\xff"'),
        (b"HTTP/1.1 400 Bad Request\r\n", "answer", 'not an answer of PostgreSQL: "HTTP/1.1 400 Bad Request\\r\\n"'),
        (b"", "answer", "closed after nothing"),
    ],
)
def test_anything_else_fails(answer: bytes, step: str, reason: str) -> None:
    with serving(one_answer(answer)) as server:
        result = check(server.address, "postgres")
    assert (result.ok, result.step, result.reason) == (False, step, reason)


def test_silence() -> None:
    with serving(hold) as server:
        assert check(server.address, "postgres", timeout=0.1).reason == "no answer within 0.1 s"
