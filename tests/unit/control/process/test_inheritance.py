"""What a new process makes of one before it that ends, or tells of sessions in a way that is not known here."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import cast

import pytest

from l4lb import LoadBalancer
from l4lb._native import tcp_migration
from l4lb.control.process.inheritance import Inheritance, receive_inheritance, send_sessions, send_tags
from l4lb.errors import UpgradeError
from l4lb.model.address import SocketAddress
from l4lb.model.forwarder import ExportedSockets
from l4lb.model.snapshot import Place
from l4lb.model.states import Protocol
from l4lb.net.handover import Channel
from tests.support.balancing import make_config
from tests.support.datagrams import UdpClient, serving_udp


@contextlib.contextmanager
def taking_over() -> Iterator[tuple[Channel, LoadBalancer, UdpClient]]:
    """The other end of its channel, the balancer, which is ready and has one UDP socket from there, and a client that
    asks there already."""
    ours, theirs = socket.socketpair()
    told = Channel(ours)
    with serving_udp() as server, socket.socket(type=socket.SOCK_DGRAM) as listening, ours:
        listening.bind(("127.0.0.1", 0))
        host, port = listening.getsockname()
        place = Place(Protocol.UDP, SocketAddress(socket.AF_INET, host, port))
        about = {"address": f"{host}:{port}", "port": port, "path": "", "inode": 0}
        inherited = Inheritance(
            sockets=[ExportedSockets(place, [os.dup(listening.fileno())], about)], channel=Channel(theirs)
        )
        config = make_config([server.address], listener={"bind": f"{host}:{port}", "protocol": "udp"})
        with LoadBalancer(config, inheritance=inherited) as balancer, UdpClient((host, port)) as client:
            assert told.receive(10)[0] == {"kind": "ready", "tcp_format": tcp_migration.FORMAT}
            client.send(b"asked before")
            yield told, balancer, client


def assert_is_alone(balancer: LoadBalancer, client: UdpClient) -> None:
    assert client.receive() == b"asked before"
    assert client.ask(b"and after") == b"and after"
    with pytest.raises(UpgradeError, match="only a process of `l4lb serve`"):  # and does not wait for the one before
        balancer.upgrade()


def test_udp_waits_for_the_sessions() -> None:
    with taking_over() as (told, balancer, client):
        assert client.hears_nothing()
        told.send({"kind": "moved"})
        told.send({"kind": "yours"})
        assert_is_alone(balancer, client)


@pytest.mark.parametrize(
    "last", [b"", struct.pack("!II", 100, 0), struct.pack("!II", 4, 0) + b"none", struct.pack("!II", 2, 0) + b"[]"]
)
def test_one_that_ends_without_a_word(last: bytes) -> None:
    """Or within one, or with one that is none."""
    with taking_over() as (told, balancer, client):
        told.sock.sendall(last)
        told.close()
        assert_is_alone(balancer, client)


@pytest.mark.parametrize("said", [{}, {"sessions": [{}]}, {"sessions": [1]}, {"sessions": 1}, {"sessions": [{}, {}]}])
def test_sessions_that_are_told_of_otherwise(said: dict[str, object]) -> None:
    """Their sockets are closed: the fixture for all tests sees that."""
    with taking_over() as (told, balancer, client), socket.socket(type=socket.SOCK_DGRAM) as sock:
        told.send({"kind": "sessions", **said}, [sock.fileno()])
        told.send({"kind": "quic_ids", "pool": "web", "entries": "?"})
        told.send({"kind": "moved"})
        told.send({"kind": "yours"})
        assert_is_alone(balancer, client)


NAMES = {"ways": {"web": "drain"}, "sessions": 1, "listeners": [[1, "default"]], "pools": [[0, "web"]], "backends": []}
RECORD = tcp_migration.RECORD_BYTES


@pytest.mark.parametrize(
    "said",
    [
        [{"kind": "hello"}],
        [{"kind": "tcp_names"}],
        [{"kind": "tcp_names", **NAMES, "listeners": [["x", "y"]]}],
        [{"kind": "tcp_names", **NAMES}, {"kind": "tcp_stays"}],
        [{"kind": "tcp_names", **NAMES}, {"kind": "tcp", "began_ns": 0, "count": 1, "bytes": 4, "fds": 0}, b"none"],
        [{"kind": "tcp_names", **NAMES}, {"kind": "tcp", "count": "?"}],
        *(
            [{"kind": "tcp_names", **NAMES}, {"kind": "tcp", "began_ns": 0, "count": 1, "bytes": RECORD, "fds": 0}, one]
            for one in (bytes(RECORD), b"\xff" * RECORD, struct.pack("=I", RECORD) + bytes(RECORD - 4))
        ),
    ],
)
def test_tcp_sessions_that_are_told_of_otherwise(said: list[dict[str, object] | bytes]) -> None:
    """None is taken, and this process goes on."""
    with taking_over() as (told, balancer, client):
        told.send({"kind": "moved", "tcp": True})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            told.send(cast("dict[str, object]", said[0]), [theirs.fileno()] if len(said) > 1 else [])
        for one in said[1:]:
            if isinstance(one, bytes):
                told.sock.sendall(one)
            else:
                assert told.receive(10)[0] == {"kind": "prepared"}
                told.send(one)
        if said[-1] != {"kind": "tcp_stays"}:
            assert told.receive(10)[0]["kind"] == "not_taken"
        told.send({"kind": "counted", "workers": "?"})
        told.send({"kind": "yours"})
        assert_is_alone(balancer, client)


def test_the_format_has_the_number_that_its_layout_had_first() -> None:
    """Whoever changes what a session looks like on its way raises EXPORT_FORMAT, and writes the new pair here."""
    assert (tcp_migration.FORMAT, tcp_migration.RECORD_BYTES) == (3, 232)


WRONG = [
    {},
    {"bytes": 2},
    {"bytes": -1, "fds": 1},
    {"bytes": "2", "fds": 1},
    {"bytes": 2.5, "fds": 1},
    {"bytes": 2, "fds": None},
    {"bytes": 2, "fds": 2},
    {"bytes": 1, "fds": 1},
    {"bytes": 3, "fds": 1},
]


@pytest.mark.parametrize("said", WRONG)
def test_what_forwards_in_the_kernel_comes_in_a_wrong_form(said: dict[str, object]) -> None:
    """The errors are those that the command reports, and no descriptor stays open (the leak fixture)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = Channel(ours)
        told.send({"kind": "kernel", **said})
        told.send_bulk(b"{}", [theirs.fileno()], 10)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises((OSError, ValueError, LookupError, TypeError)):
            receive_inheritance(Channel(theirs), 10)


def test_what_forwards_in_the_kernel_comes_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = Channel(ours)
        for _ in range(2):
            told.send({"kind": "kernel", "bytes": 2, "fds": 0})
            told.send_bulk(b"{}", [], 10)
        with pytest.raises(ValueError, match="another version"):
            receive_inheritance(Channel(theirs), 10)


@pytest.mark.parametrize("nonsense", [None, {}, {"tags": 1}, {"tags": {"x": {"a": "b"}}}, {"tags": {"5": {"a": 1}}}])
def test_tags_go_ahead_of_sessions(nonsense: dict[str, object] | None) -> None:
    """In as many messages as it takes; what are none of ours is left out."""
    tags = {2**63 + number: {"customer": f"ä{number}\udc80"} for number in range(2500)}
    with taking_over() as (told, balancer, client):
        send_tags(told, tags)
        if nonsense is not None:
            told.send({"kind": "tags", **nonsense})
        send_sessions(told, [], [], tcp=False)
        told.send({"kind": "yours"})
        assert_is_alone(balancer, client)
        assert balancer.plane.tags.all() == tags
