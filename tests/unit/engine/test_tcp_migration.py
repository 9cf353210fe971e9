"""Sessions of TCP that stand still for another process, and go on here or there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
from array import array
from collections.abc import Callable, Iterator

import pytest

from l4lb._native import tcp_migration
from l4lb.engine.native import NativeForwarder
from l4lb.model.forwarder import ExportedTcp, Fate, TcpHandOver
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import CloseReason
from tests.support.peers import connect, echo, read_exactly, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until
from tests.unit.engine.test_migration import local


@contextlib.contextmanager
def forwarding(workers: int) -> Iterator[tuple[NativeForwarder, str]]:
    """One TCP listener with an echo behind it, and where it listens."""
    port = free_port()
    with serving(echo) as server:
        pool = PoolSpec("p", Selection.CURSOR, (BackendSpec("b", local(server.port)),), (0,), (0,))
        forwarder = NativeForwarder(workers)
        try:
            forwarder.start()
            forwarder.publish(Snapshot(1, (pool,), (ListenerSpec("l", (local(port),), "p"),)))
            yield forwarder, f"127.0.0.1:{port}"
        finally:
            forwarder.close()


def test_what_is_asked_of_a_worker_that_stands_still_is_done_when_it_goes_on() -> None:
    with forwarding(workers=2) as (forwarder, address):
        tcp = forwarder.tcp
        for _ in range(30):
            tcp.hold_clients(True)
            assert wait_until(tcp.clients_held)
            tcp.freeze()
            assert wait_until(lambda: tcp.frozen() is not None)
            tcp.settle(Fate.STAY)
            tcp.hold_clients(False)  # which may wake it from the freeze already
            assert wait_until(tcp.clients_held)
            with connect(address) as client:
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"


def test_sessions_that_their_new_process_has_lost_are_reset() -> None:
    with forwarding(workers=2) as (forwarder, address), connect(address) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        export(forwarder.tcp)
        forwarder.tcp.settle(Fate.LOST)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert wait_until(lambda: forwarder.stats().listeners["l"].closed == {CloseReason.SHUTDOWN: 1})


def export(tcp: TcpHandOver) -> ExportedTcp:
    """Its sessions stand still until the caller settles it."""
    found: list[ExportedTcp] = []

    def frozen() -> bool:
        found.extend(filter(None, [tcp.frozen()]))
        return bool(found)

    tcp.hold_clients(True)
    assert wait_until(tcp.clients_held)
    tcp.freeze()
    assert wait_until(frozen)
    return found[0]


class Half(ctypes.Structure):
    _fields_ = [
        ("bytes", ctypes.c_uint64),
        ("taken", ctypes.c_int64),
        ("paid_until_ns", ctypes.c_uint64),
        ("overhead_bytes", ctypes.c_uint32),
        ("chunk_bytes", ctypes.c_uint32),
        ("pipe_bytes", ctypes.c_uint32),
        ("pipe_capacity", ctypes.c_uint32),
        ("flags", ctypes.c_uint8),
        ("full_reads", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 6),
    ]


class Source(ctypes.Structure):
    _fields_ = [
        ("bytes", ctypes.c_uint8 * 16),
        ("scope_id", ctypes.c_uint32),
        ("port", ctypes.c_uint16),
        ("length", ctypes.c_uint8),
    ]


class Session(ctypes.Structure):
    """exported_session_t of base/migration_types.pxd."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("size", "listener_id", "pool_slot", "backend_id")),
        *(
            (name, ctypes.c_uint64)
            for name in ("id", "started_ns", "attempt_started_ns", "connected_ns", "asked_ns", "hash")
        ),
        ("up", Half),
        ("down", Half),
        ("source", Source),
        *(
            (name, ctypes.c_uint32)
            for name in (
                "idle_ms",
                "half_close_ms",
                "active_ms",
                "state_deadline_ms",
                "expires_ms",
                "due_tick",
                "preface_bytes",
                "tried_count",
            )
        ),
        *((name, ctypes.c_uint16) for name in ("attempts", "flags", "local_port")),
        *(
            (name, ctypes.c_uint8)
            for name in (
                "bits",
                "state",
                "splice",
                "close_reason",
                "half_close",
                "unix_sides",
                "awaited",
                "has_client",
                "has_backend",
                "tagged",
            )
        ),
    ]


def test_the_record_is_laid_out_as_here() -> None:
    assert ctypes.sizeof(Session) == tcp_migration.RECORD_BYTES


def setting(path: str, value: int) -> Callable[[Session], None]:
    def lie(said: Session) -> None:
        *within, name = path.split(".")
        place = said
        for one in within:
            place = getattr(place, one)
        setattr(place, name, value)

    return lie


RELAYING, FLOW, ARRIVING = 7, 10, 11
LIES = [
    *(("state", state) for state in (0, FLOW, ARRIVING, 11, 255)),
    ("state", 1),  # READING, with a socket to a backend
    ("has_client", 2),
    ("has_backend", 255),
    ("has_backend", 0),
    ("backend_id", 0),
    ("backend_id", 77),
    ("listener_id", 77),
    ("pool_slot", 77),
    ("bits", 16),  # a preface
    ("bits", 32),  # its sockets went ahead
    ("preface_bytes", 8),
    ("tried_count", 1 << 30),
    ("tried_count", 1),
    ("up.chunk_bytes", 1),
    ("down.chunk_bytes", 0xFFFFFFFF),
    ("up.overhead_bytes", 1),
    ("down.pipe_bytes", 1),
    ("close_reason", 200),
    ("splice", 3),
    ("half_close", 2),
    ("unix_sides", 4),
    ("source.length", 17),
    ("source.length", 5),
    ("size", 0),
    ("size", 8),
    ("size", 240),
    ("size", 0xFFFFFFF8),
]


@contextlib.contextmanager
def frozen_session() -> Iterator[tuple[NativeForwarder, ExportedTcp, Session, socket.socket]]:
    """One session that stands still, its record, and its client."""
    with forwarding(workers=1) as (forwarder, address), connect(address) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        exported = export(forwarder.tcp)
        assert (exported.count, len(exported.fds), len(exported.state)) == (1, 2, tcp_migration.RECORD_BYTES)
        said = Session.from_buffer_copy(exported.state)
        assert (said.state, said.size) == (RELAYING, tcp_migration.RECORD_BYTES)
        try:
            yield forwarder, exported, said, client
        finally:
            forwarder.tcp.settle(Fate.STAY)


def test_a_record_that_lies_is_refused() -> None:
    with frozen_session() as (forwarder, exported, true, client):
        tcp, names = forwarder.tcp, forwarder.tcp.names()
        assert tcp.load(exported, tcp.arriving(), names).count == 1
        for path, value in LIES:
            said = Session.from_buffer_copy(true)
            setting(path, value)(said)
            with pytest.raises(ValueError, match=r"session|descriptors|socket"):
                tcp.load(ExportedTcp(1, bytes(said), exported.fds), tcp.arriving(), names)
        with pytest.raises(ValueError, match="ends within a session"):
            tcp.load(ExportedTcp(1, bytes(true)[:-8], exported.fds), tcp.arriving(), names)
        with pytest.raises(ValueError, match="more descriptors"):
            tcp.load(ExportedTcp(0, b"", exported.fds), tcp.arriving(), names)
        tcp.settle(Fate.STAY)
        client.sendall(b"again")
        assert read_exactly(client, 5) == b"again"


def test_whatever_a_record_says_the_process_that_takes_it_survives() -> None:
    """Any byte of it is another: it is refused, or goes on as some session."""
    chance = random.Random(17)
    taken = 0
    with frozen_session() as (forwarder, exported, true, _), forwarding(workers=2) as (heir, address):
        tcp, names = heir.tcp, forwarder.tcp.names()
        for _ in range(400):
            said = bytearray(bytes(true))
            for _ in range(chance.choice((1, 1, 2, 8))):
                said[chance.randrange(len(said))] = chance.randrange(256)
            fds = array("i", map(os.dup, exported.fds))
            try:
                loaded = tcp.load(ExportedTcp(1, bytes(said), fds), tcp.arriving(), names)
            except ValueError:
                for fd in fds:
                    os.close(fd)
                continue
            tcp.start(loaded)
            assert wait_until(lambda: tcp.started_ns() != 0)
            taken += 1
        assert taken > 20
        with connect(address) as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
