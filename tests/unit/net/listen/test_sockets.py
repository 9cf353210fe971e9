"""Sockets that are about to close: who is in already is served, who comes is refused, and nobody is reset."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb.engine.listening import Listening
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import ListenerSpec
from l4lb.net.listen.sockets import ListeningSockets, open_address
from tests.support.peers import connect
from tests.support.waiting import wait_until


def spec_of(address: SocketAddress) -> ListenerSpec:
    return ListenerSpec(name="web", bind=(address,), pool="web")


@contextlib.contextmanager
def listening(address: SocketAddress) -> Iterator[ListeningSockets]:
    opened = open_address(address, spec_of(address), workers=1)
    opened.listen(spec_of(address))
    try:
        yield opened
    finally:
        opened.close()


def begun(address: str) -> socket.socket:
    """A connect that is not waited for."""
    host, _, port = address.rpartition(":")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    sock.connect_ex((host.strip("[]"), int(port)))
    return sock


def outcome(sock: socket.socket) -> int:
    """What became of it; EINPROGRESS as long as nothing did."""
    with contextlib.suppress(OSError):
        sock.getpeername()
        return 0
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EINPROGRESS


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_who_is_in_is_served_and_who_comes_is_refused_at_the_end(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with listening(SocketAddress(family, host, 0)) as opened, connect(opened.address) as early:
        opened.refuse_new_clients()
        with begun(opened.address) as late:
            accepted, _ = opened.sockets[0].accept()
            with accepted:
                early.sendall(b"in time")
                accepted.setblocking(True)
                assert accepted.recv(100) == b"in time"
                assert outcome(late) == errno.EINPROGRESS, "it is not answered: it can still be refused"
                opened.close()
                found: list[int] = []
                assert wait_until(lambda: found.append(outcome(late)) or found[-1] != errno.EINPROGRESS)
                assert found[-1] == errno.ECONNREFUSED
                accepted.sendall(b"still")
                assert early.recv(100) == b"still"


def test_tcp_who_comes_gets_in_when_it_was_no_end() -> None:
    address = SocketAddress(socket.AF_INET, "127.0.0.1", 0)
    with listening(address) as opened:
        opened.accept_new_clients(spec_of(address))  # nobody was turned away
        opened.refuse_new_clients()
        with begun(opened.address) as late:
            opened.accept_new_clients(spec_of(address))
            assert wait_until(lambda: outcome(late) == 0)


def test_a_unix_socket_refuses_at_once_and_serves_who_is_in(tmp_path: Path) -> None:
    with listening(SocketAddress(socket.AF_UNIX, f"{tmp_path}/web.sock")) as opened, connect(opened.address) as early:
        opened.refuse_new_clients()
        with pytest.raises(ConnectionRefusedError):
            connect(opened.address)
        accepted, _ = opened.sockets[0].accept()
        with accepted:
            early.sendall(b"in time")
            assert accepted.recv(100) == b"in time"
        with pytest.raises(BlockingIOError):
            opened.sockets[0].accept()


def test_a_listener_that_comes_back_before_it_was_closed(tmp_path: Path) -> None:
    tcp, unix = SocketAddress(socket.AF_INET, "127.0.0.1", 0), SocketAddress(socket.AF_UNIX, f"{tmp_path}/web.sock")
    spec = ListenerSpec(name="web", bind=(tcp, unix), pool="web")
    engine = Listening(1, ())
    engine.prepare([spec])
    engine.commit([spec], 1)
    before = engine.addresses(spec)
    assert engine.refuse_new_clients([])
    assert not engine.refuse_new_clients([spec])
    engine.commit([], 2)
    engine.prepare([spec])
    engine.commit([spec], 3)
    assert engine.addresses(spec) == before
    for address in before:
        connect(address).close()
    engine.reap(3)
    for address in before:
        connect(address).close()
    engine.close()
    assert not Path(unix.host).exists()


def test_sockets_that_another_process_has_are_left_as_they_are(tmp_path: Path) -> None:
    unix = SocketAddress(socket.AF_UNIX, f"{tmp_path}/web.sock")
    spec = ListenerSpec(name="web", bind=(SocketAddress(socket.AF_INET, "127.0.0.1", 0), unix), pool="web")
    engine = Listening(1, ())
    engine.prepare([spec])
    engine.commit([spec], 1)
    theirs = [socket.socket(fileno=fd) for one in engine.export_sockets() for fd in map(socket.dup, one.fds)]
    addresses = engine.addresses(spec)
    engine.give_up_sockets()
    assert not engine.refuse_new_clients([])
    engine.commit([], 2)
    engine.reap(2)
    for address in addresses:
        connect(address).close()
    for sock in theirs:
        sock.close()
    engine.close()
