"""Pools with send_proxy: one header before a session's bytes, whoever speaks first, and on no attempt but the one that
connects. Backends read it with the parser; real receivers are in test_proxy_interop.py."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb.model.states import CloseReason
from l4lb.proxy_protocol import Command, Header, NeedMore, parse
from tests.support.balancing import address_of, balancing, closed, wait_closed, wait_idle
from tests.support.peers import Server, connect, echo, read_all, read_exactly, read_until_end, reset, serving
from tests.support.programs import free_port
from tests.support.proxy_headers import tlv
from tests.support.waiting import wait_until


class Receiver:
    """A backend's handler that takes a header, notes it with how it came, and then does as `after` says."""

    def __init__(self, after: Any = echo) -> None:
        self.headers: list[Header] = []
        self.first_pieces: list[bytes] = []  # what the first recv of each session brought
        self._after = after

    def __call__(self, sock: socket.socket) -> None:
        data = b""
        while piece := sock.recv(1 << 16):
            if not data:
                self.first_pieces.append(piece)
            data += piece
            with contextlib.suppress(NeedMore):
                header = parse(data)
                break
        else:
            return
        self.headers.append(header)
        self._after(Pushed(sock, data[header.length :]))

    @property
    def header(self) -> Header:
        assert wait_until(lambda: self.headers)
        return self.headers[-1]


class Pushed:
    """A socket that first gives bytes which were read too far."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self._sock = sock
        self._data = data

    def recv(self, size: int) -> bytes:
        if self._data:
            given, self._data = self._data[:size], self._data[size:]
            return given
        return self._sock.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def greet(sock: Any) -> None:
    sock.sendall(b"220 ready\r\n")
    echo(sock)


@contextlib.contextmanager
def receiving(after: Any = echo, host: str = "127.0.0.1") -> Iterator[tuple[Receiver, Server]]:
    receiver = Receiver(after)
    with serving(receiver, host) as server:
        yield receiver, server


def talk(sock: socket.socket, text: bytes = b"hello") -> None:
    sock.sendall(text)
    assert read_exactly(sock, len(text)) == text


def names(sock: socket.socket) -> tuple[str, str]:
    return tuple(
        f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
        for name in (sock.getsockname(), sock.getpeername())
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", ":0"])
def test_the_header_and_the_first_bytes_are_one_segment(version: int, bind: str) -> None:
    """PROXY 2: "the sender must ... in one packet"; the destination is right with and without a wildcard."""
    options = {"listener": {"bind": bind}, "send_proxy": f"v{version}"}
    with receiving() as (receiver, server), balancing([server.address], workers=1, **options) as balancer:
        port = address_of(balancer).rpartition(":")[2]
        with connect(("::1" if "::1" in bind else "127.0.0.1", int(port))) as client:
            talk(client)
            source, destination = names(client)
    assert (str(receiver.header.source), str(receiver.header.destination)) == (source, destination)
    assert receiver.header.version == version
    assert receiver.first_pieces[0][receiver.header.length :] == b"hello"


def test_a_client_of_the_other_family() -> None:
    """PROXY 2.1: both addresses are of one family; IPv4 is written as IPv6."""
    with receiving(host="::1") as (receiver, server):
        options = {"listener": {"bind": "127.0.0.1:0"}, "send_proxy": "v2"}
        with balancing([server.address], **options) as balancer, connect(address_of(balancer)) as client:
            talk(client)
            assert (str(receiver.header.source), str(receiver.header.destination)) == names(client)


@pytest.mark.parametrize("version", [1, 2])
def test_unix_sockets_on_either_side(tmp_path: Any, version: int) -> None:
    """Of a unix client no address is told: UNKNOWN or LOCAL. A unix backend gets a header like any other."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{tmp_path}/backend")
    listening.listen()
    receiver = Receiver()
    server = Server(receiver, listening=listening)
    listener = {"bind": ["127.0.0.1:0", f"unix:{tmp_path}/web"]}
    try:
        options = {"workers": 1, "listener": listener, "send_proxy": f"v{version}"}
        with balancing([f"unix:{tmp_path}/backend"], **options) as balancer:
            with connect(address_of(balancer)) as client:
                talk(client)
                assert str(receiver.header.source) == names(client)[0]
            with connect(f"unix:{tmp_path}/web") as client:
                talk(client)
            assert receiver.header.source is None
            assert receiver.header.command is (Command.LOCAL if version == 2 else Command.PROXY)
    finally:
        server.stop()


def test_a_server_that_speaks_first_gets_its_header_at_once() -> None:
    """PROXY 2: it is sent at once, and waits for nothing of the receiver's. A client that says nothing is waited for
    briefly, and with experience not at all."""
    with receiving(greet) as (receiver, server):
        with balancing([server.address], workers=1, send_proxy="v2") as balancer:
            for _ in range(6):
                with connect(address_of(balancer)) as client:
                    assert client.recv(100) == b"220 ready\r\n"
                    talk(client)
                    source = names(client)[0]
                assert str(receiver.header.source) == source
            wait_closed(balancer, CloseReason.NORMAL, 6)
    assert [len(piece) for piece in receiver.first_pieces] == [28] * 6


def test_small_messages_after_a_header_alone_are_not_held_back() -> None:
    """The header's own segment must not make the next one wait for its acknowledgement (Nagle)."""
    with receiving(greet) as (_, server):
        with balancing([server.address], workers=1, send_proxy="v2") as balancer, connect(address_of(balancer)) as one:
            assert one.recv(100) == b"220 ready\r\n"
            for _ in range(50):
                talk(one, b"x")


def test_a_client_that_only_half_closes() -> None:
    with receiving(lambda sock: sock.sendall(b"answer")) as (receiver, server):
        with balancing([server.address], send_proxy="v2") as balancer, connect(address_of(balancer)) as client:
            source = names(client)[0]
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"answer"
            wait_closed(balancer, CloseReason.NORMAL)
    assert str(receiver.header.source) == source


def test_each_session_has_a_connection_and_a_header_of_its_own() -> None:
    """PROXY 2: it MUST NOT be used on connections that several clients share."""
    with receiving() as (receiver, server), balancing([server.address], send_proxy="v2") as balancer:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(address_of(balancer))) for _ in range(8)]
            for client in clients * 3:
                talk(client)
            assert sorted(str(header.source) for header in receiver.headers) == sorted(
                names(client)[0] for client in clients
            )
        assert server.accepted == 8


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
def test_bytes_of_the_header_are_nobodys(splice: str) -> None:
    """Counters tell what clients sent. A bulk flow splices behind its header."""
    data = bytes(range(256)) * 20_000
    got: list[bytes] = []
    with receiving(lambda sock: got.append(read_all(sock))) as (receiver, server):
        options = {"workers": 1, "listener": {"splice": splice}, "send_proxy": "v2"}
        with balancing([server.address], **options) as balancer:
            with connect(address_of(balancer)) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b""
            wait_closed(balancer, CloseReason.NORMAL)
            assert balancer.stats().pools["web"].bytes_up == len(data)
    assert got == [data]
    assert len(receiver.headers) == 1


def test_attempts_that_fail_leave_no_header_behind() -> None:
    """PROXY 2: one header, and before all other bytes. Two backends refuse; the third gets it, and the client's bytes
    once."""
    with receiving() as (receiver, server):
        dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        options = {"workers": 1, "policy": "first", "send_proxy": "v2", "send_proxy_tlvs": ["unique_id", "crc32c"]}
        with balancing([*dead, server.address], **options) as balancer, connect(address_of(balancer)) as client:
            talk(client)
            assert sum(one.connect_failures for one in balancer.stats().pools["web"].backends.values()) == 2
    assert len(receiver.headers) == 1
    assert receiver.header.crc32c
    assert receiver.first_pieces[0][receiver.header.length :] == b"hello"


def test_a_client_that_waits_in_the_queue() -> None:
    release = threading.Event()

    def wait(sock: Any) -> None:
        assert release.wait(20)
        echo(sock)

    with receiving(wait) as (receiver, server):
        backend = {"address": server.address, "max_sessions": 1}
        with balancing([backend], workers=1, queue_size=5, send_proxy="v2") as balancer:
            with connect(address_of(balancer)) as first, connect(address_of(balancer)) as second:
                first.sendall(b"one")
                second.sendall(b"two")
                assert wait_until(lambda: balancer.stats().pools["web"].waiting == 1)
                release.set()
                assert first.recv(3) == b"one"
                first.close()
                assert second.recv(3) == b"two"
                assert str(receiver.header.source) == names(second)[0]
    assert len(receiver.headers) == 2


def test_tlvs_of_every_session() -> None:
    """The unique id tells sessions apart, and ends with the session's id; own TLVs go out as they are."""
    tlvs = ["unique_id", {"type": 0xE4, "value": "text"}, {"type": 0xEA, "value": "hex:01ff"}, "crc32c"]
    with receiving() as (receiver, server):
        with balancing([server.address], send_proxy="v2", send_proxy_tlvs=tlvs) as balancer:
            for _ in range(3):
                with connect(address_of(balancer)) as client:
                    talk(client)
    ids = {header.unique_id for header in receiver.headers}
    assert len(ids) == 3
    assert len({one.partition(b"-")[0] for one in ids if one}) == 1
    assert all(re.fullmatch(rb"[0-9a-f]{16}-[1-9][0-9]*", one or b"") for one in ids)
    assert receiver.header.tlvs[1:] == ((0xE4, b"text"), (0xEA, b"\x01\xff"))
    assert tlv(0xE4, b"text") in receiver.first_pieces[0]
    assert receiver.header.crc32c


def test_a_client_that_resets_before_it_speaks() -> None:
    with receiving() as (_, server), balancing([server.address], workers=1, send_proxy="v2") as balancer:
        reset(connect(address_of(balancer)))
        assert wait_until(lambda: sum(closed(balancer).values()) == 1)
        wait_idle(balancer)
        assert set(closed(balancer)) <= {CloseReason.CLIENT_ABORT, CloseReason.NORMAL}


def test_a_backend_that_resets_at_the_header() -> None:
    with serving(lambda sock: reset(sock) if sock.recv(1) else None) as server:
        with (
            balancing([server.address], workers=1, send_proxy="v2") as balancer,
            connect(address_of(balancer)) as client,
        ):
            client.sendall(b"hello")
            assert read_until_end(client) == (b"", True)
            wait_closed(balancer, CloseReason.BACKEND_ABORT)
