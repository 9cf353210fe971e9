"""`l4lb.testing`: what a client sees of each fault, through the balancer, and that it ends when the fault does."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from l4lb import UsageError
from l4lb.testing import BackendPool, TcpBackend, UdpBackend, make_pool
from tests.support.datagrams import UdpClient
from tests.support.peers import connect, read_exactly, read_until_end
from tests.support.waiting import wait_until

TcpPool = BackendPool[TcpBackend]
UdpPool = BackendPool[UdpBackend]


def asked(pool: TcpPool, data: bytes = b"hello") -> bytes:
    with connect(pool.address) as sock:
        sock.sendall(data)
        return read_exactly(sock, len(data))


@pytest.fixture
def one(l4lb_make_pool: Any) -> TcpPool:
    pool: TcpPool = l4lb_make_pool("tcp", backends=1)
    return pool


def test_a_pool_echoes(l4lb_pool: TcpPool) -> None:
    assert [asked(l4lb_pool) for _ in range(6)] == [b"hello"] * 6
    assert [backend.accepted for backend in l4lb_pool.backends] == [2, 2, 2]
    assert l4lb_pool.stats.sessions_total == 6
    assert f"<BackendPool {l4lb_pool.host}:{l4lb_pool.port}: backend-1, backend-2, backend-3>" == repr(l4lb_pool)


def test_http_with_keep_alive_and_bodies(l4lb_http_pool: TcpPool) -> None:
    connection = http.client.HTTPConnection(l4lb_http_pool.host, l4lb_http_pool.port, timeout=20)
    names = {f"hello from {backend.name}\n".encode() for backend in l4lb_http_pool.backends}
    with contextlib.closing(connection):
        for method, body in (("GET", None), ("POST", b"x" * 100_000), ("GET", None)):
            connection.request(method, "/", body)
            response = connection.getresponse()
            assert response.status == 200
            assert response.read() in names


def test_refuse_goes_to_another_and_comes_back(l4lb_pool: TcpPool) -> None:
    first, *_ = l4lb_pool.backends
    with first.refuse():
        assert [asked(l4lb_pool) for _ in range(6)] == [b"hello"] * 6
        assert first.accepted == 0
        with pytest.raises(ConnectionRefusedError):
            connect(first.address)
    assert [asked(l4lb_pool) for _ in range(6)] == [b"hello"] * 6
    assert first.accepted == 2


def test_an_accept_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """accept(2): a client has gone, descriptors have run out for a while."""
    fail, accept = [errno.EMFILE, errno.ECONNABORTED, errno.ENOBUFS], socket.socket.accept

    def failing(sock: socket.socket) -> tuple[socket.socket, Any]:
        if fail:
            raise OSError(fail.pop(), "accept")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with make_pool("tcp", backends=1) as pool:
        assert asked(pool) == b"hello"
        assert not fail
        with pool.backends[0].refuse(), pytest.raises(ConnectionRefusedError):
            connect(pool.backends[0].address)
        assert asked(pool) == b"hello"


def test_refused_by_all(l4lb_pool: TcpPool) -> None:
    for backend in l4lb_pool.backends:
        backend.refuse()
    with contextlib.suppress(ConnectionResetError):  # as early as in connect(2)
        with connect(l4lb_pool.address) as sock:
            assert read_until_end(sock) == (b"", True)
    l4lb_pool.heal()
    assert asked(l4lb_pool) == b"hello"


def test_refuse_leaves_connections_and_disconnect_ends_them(one: TcpPool) -> None:
    with connect(one.address) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        one.backends[0].refuse()
        sock.sendall(b"b")
        assert sock.recv(1) == b"b"
        one.backends[0].disconnect()
        assert read_until_end(sock) == (b"", True)


def test_hang_says_nothing_until_it_is_over(one: TcpPool) -> None:
    with connect(one.address) as sock:
        with one.backends[0].hang():
            sock.sendall(b"hello")
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        sock.settimeout(20)
        assert read_exactly(sock, 5) == b"hello"


def test_reset_after_so_many_bytes(one: TcpPool) -> None:
    with one.backends[0].reset_after(0), connect(one.address) as sock:
        sock.sendall(b"hello")
        assert read_until_end(sock) == (b"", True)
    with one.backends[0].reset_after(3), connect(one.address) as sock:
        sock.sendall(b"hello")
        got, was_reset = read_until_end(sock)
        assert was_reset
        assert b"hel".startswith(got)  # a reset may overtake what came before it
    assert asked(one) == b"hello"


def test_cut_mid_stream(one: TcpPool) -> None:
    with one.backends[0].cut_after(3), connect(one.address) as sock:
        sock.sendall(b"hello")
        assert read_until_end(sock) == (b"hel", False)
    assert asked(one) == b"hello"


def test_cut_between_answers_does_not_wait_for_the_next(one: TcpPool) -> None:
    with one.backends[0].cut_after(5), connect(one.address) as sock:
        sock.sendall(b"hello")
        assert read_until_end(sock) == (b"hello", False)


def test_slow(one: TcpPool) -> None:
    """Never faster; how much slower is for the machine to say."""
    with one.backends[0].slow(1000):
        began = time.monotonic()
        assert asked(one, b"x" * 300) == b"x" * 300
        assert time.monotonic() - began >= 0.25


def test_faults_of_connections_that_are_there(one: TcpPool) -> None:
    with connect(one.address) as sock:
        sock.sendall(b"hello")
        assert read_exactly(sock, 5) == b"hello"
        one.backends[0].cut_after(2)
        sock.sendall(b"again")
        assert read_until_end(sock) == (b"ag", False)


def test_datagrams(l4lb_udp_pool: UdpPool) -> None:
    with UdpClient(l4lb_udp_pool.address) as client:
        assert client.ask(b"one") == b"one"
    assert sum(backend.received for backend in l4lb_udp_pool.backends) == 1


def test_datagrams_dropped_and_duplicated(l4lb_make_pool: Any) -> None:
    pool: UdpPool = l4lb_make_pool("udp", backends=1)
    (backend,) = pool.backends
    with UdpClient(pool.address) as client:
        with backend.duplicate(3):
            client.send(b"x")
            assert [client.receive() for _ in range(3)] == [b"x"] * 3
        with backend.drop(every=2):
            for number in range(4):
                client.send(b"%d" % number)
                assert wait_until(lambda expected=2 + number: backend.received >= expected)
            assert [client.receive(), client.receive()] == [b"1", b"3"]
        with backend.drop():
            client.send(b"lost")
            assert client.hears_nothing()
        assert client.ask(b"back") == b"back"


def test_datagrams_refused(l4lb_make_pool: Any) -> None:
    pool: UdpPool = l4lb_make_pool("udp", backends=1)
    (backend,) = pool.backends
    with backend.refuse(), socket.socket(type=socket.SOCK_DGRAM) as direct:
        direct.settimeout(20)
        direct.connect(("127.0.0.1", backend.port))
        assert wait_until(lambda: _is_refused(direct))
    with UdpClient(pool.address) as client:
        assert wait_until(lambda: _answers(client))


def _is_refused(sock: socket.socket) -> bool:
    try:
        sock.send(b"x")
        sock.settimeout(0.2)
        sock.recv(1)
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


def _answers(client: UdpClient) -> bool:
    client.sock.settimeout(0.2)
    try:
        return client.ask(b"x") == b"x"
    except (TimeoutError, ConnectionRefusedError):
        return False


def test_options_reach_the_configuration(l4lb_make_pool: Any) -> None:
    pool = l4lb_make_pool(
        "tcp",
        backends=2,
        service=lambda name: lambda data: name.encode() + data,
        policy="first",
        health={"interval": "50ms", "fast_interval": "50ms", "down_interval": "50ms", "fall": 1},
        listener={"max_sessions": 5},
    )
    assert pool.balancer.config.listeners["pool"].max_sessions == 5
    assert pool.balancer.wait_ready(30)
    with connect(pool.address) as sock:
        sock.sendall(b"!")
        assert read_exactly(sock, 10) == b"backend-1!"
    pool.backends[0].refuse()
    states = pool.balancer.pools["pool"]
    assert wait_until(lambda: states[pool.backends[0].address].health.value == "down")


def test_wrong_calls() -> None:
    for call, message in (
        (lambda: make_pool("sctp"), 'make_pool: "sctp": expected tcp, http, udp'),
        (lambda: make_pool("tcp", 0), "at least one backend"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    with make_pool() as pool:
        with pytest.raises(UsageError, match="bytes_per_s: 0: expected at least 1"):
            pool.backends[0].slow(0)


def test_pytest_runs_of_others_load_nothing(tmp_path: Path) -> None:
    """The plug-in is in every run of pytest where l4lb is installed."""
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n    found = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert not found & {'uvloop', 'pydantic', 'aiohttp', 'prometheus_client'}\n"
        "    own = {name for name in sys.modules if name.startswith('l4lb')}\n"
        "    assert own <= {'l4lb', 'l4lb.testing', 'l4lb.testing.plugin'}, own\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
